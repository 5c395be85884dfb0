"""What integer kernels compute: exactly, and with the sums of pairs that saturate."""
