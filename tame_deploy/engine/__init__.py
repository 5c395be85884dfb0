"""From an artifact's graph to a TensorRT or TensorRT-RTX engine."""
