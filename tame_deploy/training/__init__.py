"""Training an attention head on a frozen backbone."""
