"""Progressive subnetwork training (EST, RaPTr and relatives): theory, analysis and small-scale reproduction."""

__version__ = "0.1.0"
