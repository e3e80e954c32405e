"""Every figure and table of the papers, and our own, by name: what it needs and what draws it. Loads no torch."""
