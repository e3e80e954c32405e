"""What the papers' theory predicts: one function a theorem or equation. Shares no code with any measurement."""
