"""How fast an artifact is here on everything that can run it, and what its explanations cost."""
