"""Curvature of the loss of any checkpoint. Knows nothing of our models: a checkpoint is a Hugging Face folder."""
