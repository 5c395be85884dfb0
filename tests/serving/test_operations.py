"""Starting, ending, replacing artifacts, and who is let in: real servers, one for each need."""

from __future__ import annotations

import shutil
import signal
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
import trustme

from tame_deploy import ConnectOptions, connect
from tame_deploy.errors import BackendError
from tame_deploy.serving.grpc.schema import SERVICE, message
from tests.serving.running import running

QUIET = ("--backend", "onnxruntime", "--threads", 1, "--log-level", "warning")
TOKEN = "a-token-that-is-long-enough"


def infer_body(rows=1):
    pixels = np.zeros((rows, 128, 128, 3), np.uint8)
    request = message("ModelInferRequest")(model_name="demo", raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=list(pixels.shape))
    return request


def method(channel, name, answer):
    found = message(answer)
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda asked: asked.SerializeToString(),
        response_deserializer=found.FromString,
    )


def explain(url, model="demo", **options):
    picture = open_picture()
    return httpx.post(f"{url}/v2/models/{model}/explain?maps=none", content=picture, **options)


def open_picture():
    with open("tame_deploy/data/pictures/ring-1.png", "rb") as stream:
        return stream.read()


def test_sigterm_answers_what_was_accepted_on_both_transports(demo_export, tmp_path):
    window = ("--window-ms", 3000, "--max-batch", 64)
    with running(tmp_path, f"demo={demo_export}", *QUIET, *window) as server:
        channel = grpc.insecure_channel(server.grpc)
        infer = method(channel, "ModelInfer", "ModelInferResponse")
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(explain, server.http, timeout=30) for _ in range(6)]
            asked += [pool.submit(infer, infer_body(), timeout=30) for _ in range(6)]
            # They wait for their window to close.
            wait_for(server, 'tame_requests_accepted{model="demo"} 12.0')
            started = time.monotonic()
            assert server.end() == 0
            assert time.monotonic() - started < 10
            for one in asked[:6]:
                assert one.result().json()["classes"][0]["name"] == "ring"
            for one in asked[6:]:
                assert len(one.result().outputs) == 3
        channel.close()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.http}/v2/health/live")


def test_a_server_that_is_told_to_end_says_that_it_is_not_ready(demo_export, tmp_path):
    with running(tmp_path, f"demo={demo_export}", *QUIET) as server, httpx.Client() as client:
        ready = f"{server.http}/v2/health/ready"
        assert client.get(ready).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        found = client.get(ready)
        assert found.status_code == 503
        assert found.headers["connection"] == "close"
        assert server.process.wait(10) == 0


def test_an_artifact_that_is_replaced_is_taken_without_a_failed_request(demo_export, tmp_path):
    served = tmp_path / "demo"
    shutil.copytree(demo_export, served)
    with running(tmp_path, served, *QUIET, "--reload-s", 0.2) as server:
        stop, statuses = threading.Event(), []

        def ask():
            while not stop.is_set():
                statuses.append(explain(server.http, timeout=30).status_code)

        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask) for _ in range(2)]
            for round_number in range(2):
                fresh = tmp_path / f"fresh-{round_number}"
                shutil.copytree(demo_export, fresh)
                (fresh / "manifest.json").touch()
                served.rename(tmp_path / f"old-{round_number}")
                fresh.rename(served)
                wait_for(server, f'tame_model_loads_total{{model="demo",outcome="ok"}} '
                                 f"{round_number + 2}.0")  # fmt: skip
            stop.set()
            for one in asking:
                one.result()
        assert len(statuses) > 5
        assert set(statuses) == {200}


def wait_for(server, line):
    for _ in range(100):
        if line in httpx.get(f"{server.http}/metrics").text:
            return
        time.sleep(0.1)
    raise AssertionError(f"{line!r} did not come: {server.said}")


def test_a_broken_replacement_leaves_the_old_one_answering(demo_copy, tmp_path):
    with running(tmp_path, demo_copy, *QUIET, "--reload-s", 0.2) as server:
        graph = demo_copy / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1])
        (demo_copy / "manifest.json").touch()
        wait_for(server, 'tame_model_loads_total{model="demo",outcome="failed"} 1.0')
        assert explain(server.http).status_code == 200
        server.wait_until_said("the new artifact is not taken")
        index = httpx.post(f"{server.http}/v2/repository/index").json()[0]
        assert index["state"] == "READY"
        assert "cannot be opened" in index["reason"]
        assert str(demo_copy) not in index["reason"]


def test_tokens_are_asked_for_on_both_transports(demo_export, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# ours\n{TOKEN}\n")
    with running(tmp_path, f"demo={demo_export}", *QUIET, "--token-file", tokens) as server:
        for refused in ({}, {"authorization": TOKEN}, {"authorization": "Bearer wrong"},
                        {"authorization": f"Bearer {TOKEN}x"}):  # fmt: skip
            found = explain(server.http, headers=refused)
            assert found.status_code == 401
            assert found.headers["www-authenticate"] == "Bearer"
        good = {"authorization": f"Bearer {TOKEN}"}
        assert explain(server.http, headers=good).status_code == 200
        assert httpx.get(f"{server.http}/v2/health/ready").status_code == 200
        assert httpx.get(f"{server.http}/v2/models/demo").status_code == 401
        with grpc.insecure_channel(server.grpc) as channel:
            infer = method(channel, "ModelInfer", "ModelInferResponse")
            with pytest.raises(grpc.RpcError) as caught:
                infer(infer_body())
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert infer(infer_body(), metadata=tuple(good.items())).outputs
            ready = method(channel, "ServerReady", "ServerReadyResponse")
            assert ready(message("ServerReadyRequest")()).ready
        for url in (f"{server.http}/demo", f"grpc://{server.grpc}"):
            with connect(url, ConnectOptions(token=TOKEN)) as explainer:
                assert explainer.explain(open_picture()).class_names == (("ring",),)
            with pytest.raises(BackendError, match="bearer token"):
                connect(f"{url.removesuffix('/demo')}/demo")


def test_health_can_be_closed_too(demo_export, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    closed = ("--token-file", tokens, "--closed-health")
    with running(tmp_path, f"demo={demo_export}", *QUIET, *closed) as server:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/demo/ready", "/metrics"):
            assert httpx.get(server.http + path).status_code == 401
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        with grpc.insecure_channel(server.grpc) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            with pytest.raises(grpc.RpcError) as caught:
                check(health_pb2.HealthCheckRequest())
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            token = (("authorization", f"Bearer {TOKEN}"),)
            assert check(health_pb2.HealthCheckRequest(), metadata=token).status == 1


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def certificates(authority, tmp_path):
    ours = authority.issue_cert("localhost", "127.0.0.1")
    files = {}
    for name, blobs in (("cert", ours.cert_chain_pems), ("key", [ours.private_key_pem]),
                        ("ca", [authority.cert_pem])):  # fmt: skip
        files[name] = tmp_path / f"{name}.pem"
        files[name].write_bytes(b"".join(blob.bytes() for blob in blobs))
    return files


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_on_both_transports(demo_export, tmp_path, certificates, mutual):
    asked = ["--tls-cert", certificates["cert"], "--tls-key", certificates["key"]]
    if mutual:
        asked += ["--client-ca", certificates["ca"]]
    ca, cert, key = (str(certificates[name]) for name in ("ca", "cert", "key"))
    with running(tmp_path, f"demo={demo_export}", *QUIET, *asked) as server:
        assert server.http.startswith("https://")
        urls = (server.http.replace("127.0.0.1", "localhost"),
                f"grpcs://{server.grpc.replace('127.0.0.1', 'localhost')}")  # fmt: skip
        for url in urls:
            own = {"cert": cert, "key": key} if mutual else {}
            with connect(f"{url}/demo", ConnectOptions(ca=ca, **own)) as explainer:
                assert explainer.explain(open_picture()).class_names == (("ring",),)
            if mutual:
                with pytest.raises(BackendError):
                    connect(f"{url}/demo", ConnectOptions(ca=ca, timeout_s=5))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.http}/v2", verify=ssl.create_default_context())


def test_a_full_queue_says_when_to_come_back(demo_export, tmp_path):
    few = ("--max-waiting", 2, "--window-ms", 500, "--max-batch", 64)
    with running(tmp_path, f"demo={demo_export}", *QUIET, *few) as server:
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: explain(server.http, timeout=30), range(6)))
        assert sorted(one.status_code for one in found) == [200, 200, 503, 503, 503, 503]
        assert {one.headers.get("retry-after") for one in found if one.status_code == 503} == {"1"}


def test_a_request_that_waits_too_long_is_told_so(demo_export, tmp_path):
    slow = ("--window-ms", 3000, "--timeout-s", 0.3)
    with running(tmp_path, f"demo={demo_export}", *QUIET, *slow) as server:
        assert explain(server.http).status_code == 504
        with grpc.insecure_channel(server.grpc) as channel:
            infer = method(channel, "ModelInfer", "ModelInferResponse")
            with pytest.raises(grpc.RpcError) as caught:
                infer(infer_body())
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_that_leaves_costs_no_run(demo_export, tmp_path):
    with running(tmp_path, f"demo={demo_export}", *QUIET, "--window-ms", 1500) as server:
        with pytest.raises(httpx.ReadTimeout):
            explain(server.http, timeout=0.3)
        time.sleep(1.6)
        stats = httpx.get(f"{server.http}/v2/models/demo/stats").json()["model_stats"][0]
        assert stats["execution_count"] == 0
        assert 'outcome="cancelled"' in httpx.get(f"{server.http}/metrics").text


def test_several_models_and_a_file_of_options(demo_export, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text(
        f'artifacts = ["one={demo_export}", "two={demo_export}"]\nmax_batch = 3\n'
        'backend = "onnxruntime"\nthreads = 1\ninstances = 3\nlog_format = "json"\npage = false\n'
    )
    with running(tmp_path, "--config", config, "--max-batch", 2, "--no-grpc") as server:
        index = httpx.post(f"{server.http}/v2/repository/index").json()
        assert [one["name"] for one in index] == ["one", "two"]
        # What stands on the command line comes before the file.
        assert httpx.get(f"{server.http}/v2/models/two/config").json()["max_batch_size"] == 2
        assert httpx.get(server.http).status_code == 404
        assert server.grpc is None
        found = explain(server.http, "one", headers={"x-request-id": "nine"})
        assert found.json()["model_name"] == "one"
        assert found.headers["x-request-id"] == "nine"
        server.wait_until_said('"request_id": "nine"')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--http-port", 99999], "http_port is 99999"),
        (["--tls-cert", "x.pem"], "one of tls_cert and tls_key"),
        (["--token-file", "nowhere"], "cannot read tokens nowhere"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--window-ms", -1], "window_ms is -1"),
        (["--instances", 0], "instances is 0"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
    ],
)
def test_what_cannot_be_served_is_one_line(demo_export, tmp_path, arguments, words):
    ended = pytest.raises(AssertionError, match="the server ended with 1")
    with ended, running(tmp_path, f"demo={demo_export}", *arguments):
        pass
    said = (tmp_path / "server.log").read_text()
    assert words in said
    assert "Traceback" not in said
