"""Quantised models: matrices rounded to small integers or 8-bit floats, and what that costs."""
