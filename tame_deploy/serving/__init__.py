"""Explanations over the network: the Open Inference Protocol, as Triton's clients speak it.

A request goes through these, in this order:

    http/ and grpc/   bytes <-> InferRequest and InferResponse (messages.py, tensors.py)
    repository.py     which model, and whether it is ready; replaced artifacts
    contract.py       what the model takes and gives: checks, metadata, configuration
    model.py          decoding, one artifact on a backend, its answers
    scheduler.py      the queue: batches of what waited while the backend was busy

options.py is what a server is told, server.py starts and ends it.
"""
