"""Collapsed second-order Taylor mode for models whose code we do not own: `v' H v` in forward passes, no graph kept.

Dangel et al., "Collapsing Taylor Mode Automatic Differentiation", NeurIPS 2025, arXiv 2505.13644. `jet.py` holds the
numbers and intercepts operators; each other file is the rules of one kind of operator; `engine.py` measures.
"""
