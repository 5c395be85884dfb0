"""Ablations: several recipes trained and evaluated, side by side."""
