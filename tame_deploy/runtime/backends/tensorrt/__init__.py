"""TensorRT and TensorRT-RTX: engines on NVIDIA GPUs."""
