"""Predictions, one function a theorem or equation. Shares no code with what measures them."""
