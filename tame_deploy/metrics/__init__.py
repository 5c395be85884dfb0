"""Scores of explanations and what they are taken of; numpy only, any backend."""
