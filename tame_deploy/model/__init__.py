"""The network in PyTorch: backbone, attention head, checkpoints, folding."""
