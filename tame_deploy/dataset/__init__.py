"""Labelled pictures for training and evaluation, wherever they are kept; needs no torch."""
