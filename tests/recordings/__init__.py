"""Recorded outputs of real programs, and what records them."""
