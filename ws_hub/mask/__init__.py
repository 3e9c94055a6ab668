"""Secrets: what they look like in output, and what stands in their place."""
