"""The papers' idea, free of any network: which part of a model is active, how it is drawn, when, and what it costs."""
