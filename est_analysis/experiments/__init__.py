"""Runs named by their content: frozen specs, the store they live in, and the recipes that reproduce a result."""
