"""How good explanations are, measured on whatever is deployed: metrics see only a backend."""
