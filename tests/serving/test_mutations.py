"""Good requests with some bytes changed: an answer or a refusal, never a failure of the server."""

from __future__ import annotations

import json
import random
from pathlib import Path

import grpc
import httpx
import numpy as np

from tame_deploy.serving.grpc.schema import SERVICE, message

MUTATED = 300
#: The client's faults, and answers: a changed pixel is as good as the old one.
FINE = {200, 400, 404, 408, 413, 415, 501}
FINE_CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}


def changed(body, rng):
    """Return bytes with a few flipped, cut out, doubled or put in, mostly near the front."""
    found = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        place = min(int(rng.expovariate(1 / 60)), len(found) - 1)
        match rng.randint(0, 3):
            case 0:
                found[place] ^= 1 << rng.randint(0, 7)
            case 1:
                del found[place : place + rng.randint(1, 8)]
            case 2:
                found[place:place] = found[place : place + rng.randint(1, 8)]
            case 3:
                found[place:place] = rng.randbytes(rng.randint(1, 8))
        if not found:
            return b""
    return bytes(found)


def test_mutated_http_bodies(server):
    rng = random.Random(1)
    pixels = np.zeros((1, 128, 128, 3), np.uint8).tobytes()
    header = json.dumps(
        {"id": "a", "inputs": [{"name": "images", "shape": [1, 128, 128, 3], "datatype": "UINT8",
         "parameters": {"binary_data_size": len(pixels)}}], "outputs": [{"name": "logits"}]}
    ).encode()  # fmt: skip
    picture = Path("tame_deploy/data/pictures/ring-1.png").read_bytes()
    with httpx.Client(base_url=server.http, timeout=20) as client:
        before = None
        for number in range(MUTATED):
            if number % 2:
                told = {"inference-header-content-length": str(len(header))}
                body = changed(header, rng) + pixels
                found = client.post("/v2/models/demo/infer", content=body, headers=told)
            else:
                found = client.post("/v2/models/demo/explain?maps=none",
                                    content=changed(picture, rng))  # fmt: skip
            assert found.status_code in FINE, found.text
            if number == MUTATED // 3:
                before = server.resident_mib
        assert server.resident_mib - before < 16


def test_mutated_messages(server):
    rng = random.Random(2)
    request = message("ModelInferRequest")(model_name="demo", id="a")
    request.inputs.add(name="images", datatype="UINT8", shape=[1, 128, 128, 3])
    request.raw_input_contents.append(bytes(128 * 128 * 3))
    request.outputs.add(name="logits")
    good = request.SerializeToString()
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        codes, reasons = set(), []
        for _ in range(MUTATED):
            try:
                infer(changed(good, rng), timeout=20)
                codes.add("OK")
            except grpc.RpcError as error:
                codes.add(error.code().name)
                reasons.append(error.details())
        assert codes <= FINE_CODES
        assert not any("server failed" in reason for reason in reasons)
        assert "INVALID_ARGUMENT" in codes
        infer(good, timeout=20)
