"""A GPU of host memory, for the code between numpy and TensorRT; tests/gpu has the real one."""
