"""Holding a backend to the reference values that the artifact carries."""
