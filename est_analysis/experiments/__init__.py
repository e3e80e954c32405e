"""What a recipe is, every recipe by name, and a room each for runs, language models and small nets."""
