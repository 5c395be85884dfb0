"""What comes with the package: a procedural data set and a small model trained on it."""
