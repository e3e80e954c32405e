"""What leaving one residual layer out does to a trained network: RaPTr's stability, measured on any checkpoint."""
