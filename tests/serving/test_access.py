"""Who is let in: tokens, certificates, and health that may be closed too."""

from __future__ import annotations

import ssl
import threading

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tame_deploy import ConnectOptions, connect
from tame_deploy.errors import BackendError
from tame_deploy.serving.grpc.schema import SERVICE, message
from tests.serving.clients import PICTURE, TOKEN, explain, infer_request, method

BEARER = {"authorization": f"Bearer {TOKEN}"}
METADATA = tuple(BEARER.items())


@pytest.mark.parametrize(
    "refused",
    [{}, {"authorization": TOKEN}, {"authorization": "Bearer wrong"},
     {"authorization": f"Bearer {TOKEN}x"}],
    ids=["none", "without-its-scheme", "another", "longer"],
)  # fmt: skip
def test_http_asks_for_a_token(guarded, refused):
    found = explain(guarded.http, headers=refused)
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{guarded.http}/v2/models/demo", headers=refused).status_code == 401
    assert explain(guarded.http, headers=BEARER).status_code == 200


def test_grpc_asks_for_a_token(guarded):
    with grpc.insecure_channel(guarded.grpc) as channel:
        infer = method(channel)
        with pytest.raises(grpc.RpcError) as caught:
            infer(infer_request())
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert infer(infer_request(), metadata=METADATA).outputs


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", "/nowhere"), ("POST", "/v2/logging"), ("PUT", "/v2/models/demo/infer"),
     ("GET", "/v2/models/demo/infer"), ("GET", "/v2/models/demo/"), ("GET", "/v2/"),
     ("GET", "/v2/models/other"), ("GET", "/v2/models/demo/versions/2")],
)  # fmt: skip
def test_who_has_no_token_does_not_learn_which_paths_there_are(guarded, verb, path):
    found = httpx.request(verb, guarded.http + path)
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"
    assert "bearer token" in found.json()["error"]
    assert httpx.request(verb, guarded.http + path, headers=BEARER).status_code in (404, 405, 501)


@pytest.mark.parametrize("path", [f"/{SERVICE}/Unknown", "/unknown.Service/Unknown", "/unknown"])
def test_who_has_no_token_does_not_learn_which_grpc_methods_there_are(guarded, path):
    with grpc.insecure_channel(guarded.grpc) as channel:
        call = channel.unary_unary(path)
        for metadata, code in (((), "UNAUTHENTICATED"), (METADATA, "UNIMPLEMENTED")):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", metadata=metadata, timeout=20)
            assert caught.value.code().name == code


def test_health_needs_no_token(guarded):
    assert httpx.get(f"{guarded.http}/v2/health/ready").json() == {"ready": True}
    with grpc.insecure_channel(guarded.grpc) as channel:
        assert method(channel, "ServerReady")(message("ServerReadyRequest")()).ready


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_connect_sends_a_token(guarded, scheme):
    url = f"{guarded.http}/demo" if scheme == "http" else f"grpc://{guarded.grpc}/demo"
    with connect(url, ConnectOptions(token=TOKEN)) as explainer:
        assert explainer.explain(PICTURE).class_names == (("ring",),)
    with pytest.raises(BackendError, match="bearer token"):
        connect(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/demo", "grpc://127.0.0.1:1/demo"])
def test_who_cannot_connect_is_told_of_certificates_in_python_and_on_the_command_line(url):
    with pytest.raises(BackendError, match=r"ConnectOptions\(ca=FILE\), or --tls-ca FILE"):
        connect(url, ConnectOptions(timeout_s=5))


def test_requests_that_say_nothing_are_refused_at_once_without_a_token(guarded):
    with grpc.insecure_channel(guarded.grpc) as channel:
        silent = threading.Event()

        def nothing():
            silent.wait(20)
            yield from ()

        stream = channel.stream_stream(f"/{SERVICE}/ModelInfer")
        for held in [stream(nothing()) for _ in range(15)]:
            with pytest.raises(grpc.RpcError) as caught:
                next(held)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        # They hold no place: as many as there are can be taken by who has a token.
        infer = method(channel)
        calls = [infer.future(infer_request(), metadata=METADATA, timeout=20) for _ in range(15)]
        assert all(call.result().outputs for call in calls)
        silent.set()


def test_health_can_be_closed_too(serve, token_file):
    closed = serve("--token-file", token_file, "--closed-health")
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/demo/ready", "/metrics"):
        assert httpx.get(closed.http + path).status_code == 401
        assert httpx.get(closed.http + path, headers=BEARER).status_code == 200
    with grpc.insecure_channel(closed.grpc) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        with pytest.raises(grpc.RpcError) as caught:
            check(health_pb2.HealthCheckRequest())
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert check(health_pb2.HealthCheckRequest(), metadata=METADATA).status == 1


@pytest.mark.parametrize("mutual", [False, True], ids=["of-the-server", "of-both"])
def test_tls_on_both_transports(serve, certificates, mutual):
    ca, cert, key = (certificates[name] for name in ("ca", "cert", "key"))
    server = serve("--tls-cert", cert, "--tls-key", key, *(["--client-ca", ca] if mutual else []))
    assert server.http.startswith("https://")
    urls = (server.http.replace("127.0.0.1", "localhost"),
            f"grpcs://{server.grpc.replace('127.0.0.1', 'localhost')}")  # fmt: skip
    for url in urls:
        own = {"cert": cert, "key": key} if mutual else {}
        with connect(f"{url}/demo", ConnectOptions(ca=ca, **own)) as explainer:
            assert explainer.explain(PICTURE).class_names == (("ring",),)
        if mutual:
            with pytest.raises(BackendError):
                connect(f"{url}/demo", ConnectOptions(ca=ca, timeout_s=5))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.http}/v2", verify=ssl.create_default_context())
