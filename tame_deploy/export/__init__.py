"""Backbone and head fused into one ONNX graph, held to the PyTorch network before it is kept."""
