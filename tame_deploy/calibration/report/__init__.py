"""What is written about a quantization."""
