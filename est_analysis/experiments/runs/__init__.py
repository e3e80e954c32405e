"""Runs named by their content: frozen specs, the folders they live in, many side by side, sweeps of rates."""
