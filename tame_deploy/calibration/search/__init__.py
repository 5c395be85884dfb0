"""Which layers must stay in higher precision, and what that costs."""
