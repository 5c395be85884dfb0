"""gRPC: grpc.aio, with messages from open_inference.proto."""
