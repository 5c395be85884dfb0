"""A good request in parts, and whether a server answers it as before."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.serving.http_probes import good_request
from tests.serving.raw_http import Answer, exchange, head, whole

SECRETS = ("Traceback", 'File "', ".py", "site-packages", " at 0x", sys.prefix, str(Path.cwd()))
PATH, GOOD, HEADERS = good_request()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def sending(**headers: object) -> bytes:
    """Return the head of a good request, with these headers."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return head("POST", PATH, {**HEADERS, **named})


CHUNKED = sending(transfer_encoding="chunked")


def assert_tells_no_secrets(answer: Answer) -> None:
    text = answer.body.decode()
    assert not [secret for secret in SECRETS if secret in text]
    assert answer.status != 500


def watched(server, expected):
    """Yield a server, which must answer as well as before afterwards."""
    before = len(server.said)
    yield server
    answer = exchange(server.address, whole("POST", PATH, GOOD, HEADERS))
    assert answer is not None
    assert answer.status == 200, answer.body
    np.testing.assert_allclose(answer.json["outputs"][0]["data"], expected, atol=1e-4)
    assert server.process.poll() is None
    assert "Traceback" not in server.said[before:]
