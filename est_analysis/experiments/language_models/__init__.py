"""Recipes that train language models, and what is measured of the checkpoints that they keep."""
