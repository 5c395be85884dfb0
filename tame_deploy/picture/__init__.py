"""Pictures: how they become tensors, and how maps are laid over them."""
