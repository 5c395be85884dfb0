"""Without uvloop, as on Windows, the server keeps its promises on asyncio's own loop."""

from __future__ import annotations

import os
import signal
import socket

import grpc
import numpy as np
import pytest

from tests.serving.clients import PICTURE, infer_request, method
from tests.serving.raw_http import exchange, read_answer, whole
from tests.serving.running import PLAIN, running

EXPLAIN = "/v2/models/demo/explain?maps=none"


@pytest.fixture(scope="module")
def plain_loop(demo_export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asyncio")
    (folder / "uvloop.py").write_text("raise ImportError('there is none')\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ("--body-timeout-s", 1)
    with running(folder, f"demo={demo_export}", *PLAIN, *options, env={"PYTHONPATH": path}) as one:
        yield one


def test_both_transports_answer(plain_loop, expected):
    answer = exchange(plain_loop.address, whole("POST", EXPLAIN, PICTURE), half_close=True)
    assert answer.status == 200
    with grpc.insecure_channel(plain_loop.grpc) as channel:
        found = method(channel)(infer_request(), timeout=20).raw_output_contents[0]
    np.testing.assert_allclose(np.frombuffer(found, "<f4"), expected, atol=1e-4)


def test_a_slow_head_is_given_up(plain_loop):
    with socket.create_connection(plain_loop.address, timeout=20) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: localh")
        assert read_answer(connection).status == 408


def test_it_ends_well(plain_loop):
    assert plain_loop.end(signal.SIGTERM) == 0
