"""What tests ask a server, over HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np

from tame_deploy.serving.grpc.schema import SERVICE, message

PICTURE = Path("tame_deploy/data/pictures/ring-1.png").read_bytes()
TOKEN = "a-token-that-is-long-enough"


def explain(url, model="demo", **options):
    """Ask for the explanation of a ring."""
    address = f"{url}/v2/models/{model}/explain?maps=none"
    return httpx.post(address, content=PICTURE, **options)


def infer_request(rows=1):
    """Return a message about black pictures."""
    pixels = np.zeros((rows, 128, 128, 3), np.uint8)
    request = message("ModelInferRequest")(model_name="demo", raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=list(pixels.shape))
    return request


def method(channel, name="ModelInfer"):
    """Return a method of the inference service."""
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message(f"{name}Response").FromString,
    )
