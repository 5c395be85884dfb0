"""Explained predictions from an artifact; needs no torch."""
