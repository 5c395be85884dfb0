"""Passes over the graph, one a file."""
