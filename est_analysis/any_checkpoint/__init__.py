"""Measuring a checkpoint, whoever trained it: its Hessian trace and spectrum, two side by side, its stability."""
