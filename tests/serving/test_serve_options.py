"""What a server is told: options, a file of them, and what it cannot honour."""

from __future__ import annotations

import httpx
import pytest

from tame_deploy.errors import InputError
from tame_deploy.serving.options import ServeOptions, read_options
from tests.serving.clients import explain
from tests.serving.running import PLAIN, running


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
        server.wait_until_said("serving one with onnxruntime")


def test_what_runs_each_model_is_said(server):
    server.wait_until_said("demo runs with onnxruntime")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--token-file", "nowhere"], "cannot read tokens nowhere"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--no-grpc", "--grpc-port", 9], "found both --grpc-port and --no-grpc"),
    ],
)
def test_what_cannot_be_served_is_one_line(demo_export, tmp_path, arguments, words):
    ended = pytest.raises(AssertionError, match="the server ended with 1")
    with ended, running(tmp_path, f"demo={demo_export}", *PLAIN, *arguments):
        pass
    said = (tmp_path / "server.log").read_text()
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"http_port": 99999}, "http_port is 99999; expected 0 to 65535"),
        ({"tls_cert": "x.pem"}, "one of tls_cert and tls_key"),
        ({"max_queue_delay_ms": -1.0}, "max_queue_delay_ms is -1"),
        ({"instances": 0}, "instances is 0"),
        ({"client_ca": "x.pem"}, "no meaning without tls_cert"),
        ({"open_health": False}, "no meaning without token_file"),
        ({"http_port": 9000, "grpc_port": 9000}, "both 9000"),
        ({"max_pixels": 300_000_000}, "max_pixels is 300 million; expected 1 to 250 million"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        read_options(None, given)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_bach = 4", "unknown key max_bach; did you mean max_batch?"),
        ('max_batch = "4"', "max_batch is '4'; expected a whole number"),
        ("max_batch = true", "max_batch is True; expected a whole number"),
        ("timeout_s = '1'", "timeout_s is '1'; expected a number"),
        ("page = 1", "page is 1; expected true or false"),
        ("log_format = 'xml'", "expected one of text, json"),
        ("grpc_port = true", "grpc_port is True; expected a whole number"),
        ("artifacts = 'one'", "artifacts is 'one'; expected a list"),
        ("artifacts = [1]", r"artifacts\[0\] is 1; expected a string"),
        ("max_batch = ", "is not TOML"),
    ],
)
def test_a_file_is_read_to_the_letter(tmp_path, text, words):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_options(str(path), {})


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"cannot read nowhere\.toml"):
        read_options("nowhere.toml", {})


def test_what_is_given_comes_before_the_file(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text('artifacts = ["a", "b=c"]\nmax_batch = 3\ntimeout_s = 5\ngrpc_port = false\n')
    artifacts, options = read_options(str(path), {"max_batch": 2, "host": "::1"})
    assert artifacts == ["a", "b=c"]
    assert (options.max_batch, options.timeout_s, options.host) == (2, 5.0, "::1")
    assert options.grpc_port is None
    assert read_options(str(path), {"grpc_port": 9})[1].grpc_port == 9


def test_by_default_nobody_waits_in_vain_who_was_let_in():
    assert ServeOptions(max_connections=300).queue_size == 600  # each transport lets in as many
    assert ServeOptions(max_connections=300, grpc_port=None).queue_size == 300
    assert ServeOptions(max_queue_size=5).queue_size == 5
