"""TensorRT and TensorRT-RTX: which library, which engine, and running it."""
