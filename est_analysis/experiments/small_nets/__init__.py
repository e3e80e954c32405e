"""Recipes on nets so small that many seeds train at once: polynomials, digits, linear and random nets."""
