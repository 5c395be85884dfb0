"""Traces reach a collector, as part of the trace that the client names."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from tests.serving.running import PLAIN, running

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


def test_a_request_is_a_span_of_its_clients_trace(demo_export, tmp_path):
    bodies = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        traced = (*PLAIN, "--no-grpc", "--traces", endpoint)
        with running(tmp_path, f"demo={demo_export}", *traced) as server:
            trace = "0af7651916cd43dd8448eb211c80319c"
            headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            httpx.get(f"{server.http}/v2/models/demo", headers=headers).raise_for_status()
            assert server.end() == 0
        collector.shutdown()
    sent = b"".join(bodies)
    assert bytes.fromhex(trace) in sent
    assert b"GET /v2/models/demo" in sent
