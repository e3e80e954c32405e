"""One training loop for every model and method, and what it needs: optimizer, masks ahead, checkpoints, rows."""
