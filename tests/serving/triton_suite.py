"""What Triton's own client is tried with; runs wherever tritonclient is, without this package.

    python -m tests.serving.triton_suite HTTP_ADDRESS GRPC_ADDRESS EXPECTED.npz

prints one JSON object a check: its name, whether it passed, and why not.
"""

from __future__ import annotations

import json
import queue
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tests.serving.triton_bench import (
    CHECKS,
    GRPC,
    HTTP,
    NEAR,
    TRANSPORTS,
    Bench,
    check,
    check_of,
)


@check
def live_and_ready(b: Bench) -> None:
    assert b.client.is_server_live() is True
    assert b.client.is_server_ready() is True
    assert b.client.is_model_ready("demo") is True
    assert b.client.is_model_ready("demo", "1") is True


@check
def an_unknown_model_is_not_ready(b: Bench) -> None:
    assert b.client.is_model_ready("other") is False


@check
def server_metadata(b: Bench) -> None:
    told = b.json("get_server_metadata")
    assert told["name"] == "tame-deploy"
    assert "binary_tensor_data" in told["extensions"]


@check
def model_metadata(b: Bench) -> None:
    told = b.json("get_model_metadata", "demo")
    assert told["versions"] == ["1"]
    assert [one["name"] for one in told["inputs"]] == ["images", "class_ids", "image"]
    assert [one["name"] for one in told["outputs"]] == ["logits", "explained", "maps", "overlay"]
    assert told["inputs"][0]["datatype"] == "UINT8"
    assert [int(size) for size in told["inputs"][0]["shape"]] == [-1, 128, 128, 3]


@check
def model_configuration(b: Bench) -> None:
    told = b.json("get_model_config", "demo")
    told = told if b.is_http else told["config"]
    assert told["name"] == "demo"
    assert told["max_batch_size"] == 8
    kinds = {one["name"]: one["data_type"] for one in told["input"]}
    assert kinds == {"images": "TYPE_UINT8", "class_ids": "TYPE_INT64", "image": "TYPE_STRING"}
    optional = {one["name"] for one in told["input"] if one.get("optional")}
    assert optional >= {"class_ids", "image"}
    assert [int(size) for size in told["output"][0]["dims"]] == [6]


@check
def statistics_count(b: Bench) -> None:
    def succeeded() -> int:
        (told,) = b.json("get_inference_statistics", "demo")["model_stats"]
        return int(told["inference_stats"]["success"]["count"])

    b.infer(b.images())
    before = succeeded()
    b.infer(b.images())
    assert succeeded() == before + 1


@check
def repository_index(b: Bench) -> None:
    told = b.json("get_model_repository_index")
    (model,) = told if b.is_http else told["models"]
    assert (model["name"], model["version"], model["state"]) == ("demo", "1", "READY")


@check
def raw_tensors(b: Bench) -> None:
    answer = b.infer(b.images())
    b.same(answer)
    told = answer.get_response() if b.is_http else answer.get_response(as_json=True)
    assert told["model_name"] == "demo"
    assert told["model_version"] == "1"


@check_of(*HTTP)
def json_tensors(b: Bench) -> None:
    outputs = b.wanted("logits", "explained", "maps", binary_data=False)
    b.same(b.infer(b.images(binary_data=False), outputs=outputs))


@check_of(*HTTP)
def json_in_and_raw_out_and_back(b: Bench) -> None:
    b.same(b.infer(b.images(binary_data=False)))
    outputs = [*b.wanted("logits", binary_data=False), *b.wanted("explained", "maps")]
    b.same(b.infer(b.images(), outputs=outputs))


@check
def only_the_outputs_that_are_wanted(b: Bench) -> None:
    answer = b.infer(b.images(), outputs=b.wanted("maps"))
    assert answer.as_numpy("maps").shape == (1, 1, 32, 32)
    assert answer.as_numpy("logits") is None


@check
def a_batch_is_its_rows(b: Bench) -> None:
    every = slice(0, 3)
    b.same(b.infer(b.images(every)), every)
    for row in range(3):
        b.same(b.infer(b.images(slice(row, row + 1))), slice(row, row + 1))


@check
def classes_that_are_chosen(b: Bench) -> None:
    every = slice(0, 3)
    chosen = b.input("class_ids", "INT64", b.expected["explained_chosen"])
    b.same(b.infer(b.images(every), chosen), every, "_chosen")


@check
def encoded_pictures(b: Bench) -> None:
    b.same(b.infer(b.input("image", "BYTES", b.expected["encoded"])), suffix="_file")
    b.same(b.infer(b.input("image", "BYTES", b.expected["encoded"][:, None])), suffix="_file")


@check
def overlays_that_are_asked_for(b: Bench) -> None:
    picture = b.input("image", "BYTES", b.expected["encoded"])
    drawn = b.infer(picture, outputs=b.wanted("overlay")).as_numpy("overlay")
    assert drawn.shape == (1, 1)
    assert drawn[0, 0].startswith(b"\x89PNG")


@check
def classification(b: Bench) -> None:
    answer = b.infer(b.images(slice(0, 3)), outputs=b.wanted("logits", class_count=2))
    found, logits = answer.as_numpy("logits"), b.expected["logits"]
    assert found.shape == (3, 2)
    for row in range(3):
        best = sorted(range(6), key=lambda place: -logits[row, place])[:2]
        for text, class_id in zip(found[row], best, strict=True):
            value, place, label = text.decode().split(":")
            assert int(place) == class_id
            assert label == b.expected["labels"][class_id]
            assert abs(float(value) - logits[row, class_id]) <= NEAR


@check
def a_request_keeps_its_id(b: Bench) -> None:
    answer = b.infer(b.images(), request_id="a request of mine")
    told = answer.get_response() if b.is_http else answer.get_response(as_json=True)
    assert told["id"] == "a request of mine"


def _compressed(b: Bench, name: str) -> None:
    if b.is_http:
        how = {"request_compression_algorithm": name, "response_compression_algorithm": name}
        b.same(b.infer(b.images(), response_compression_algorithm=name))
        b.same(b.infer(b.images(), request_compression_algorithm=name))
    else:
        how = {"compression_algorithm": name}
    b.same(b.infer(b.images(), **how))


@check
def gzip(b: Bench) -> None:
    _compressed(b, "gzip")


@check
def deflate(b: Bench) -> None:
    _compressed(b, "deflate")


@check
def a_version_that_is_named(b: Bench) -> None:
    b.same(b.infer(b.images(), model_version="1"))


@check
def an_unknown_model(b: Bench) -> None:
    ask = b.images()
    b.refused("404 NOT_FOUND", "unknown model", lambda: b.client.infer("other", [ask]))
    b.refused("404 NOT_FOUND", "unknown model", lambda: b.client.get_model_metadata("other"))
    b.refused("404 NOT_FOUND", "version", lambda: b.infer(ask, model_version="2"))


@check
def a_wrong_shape(b: Bench) -> None:
    ask = b.input("images", "UINT8", b.expected["images"][:, :64])
    b.refused("400 INVALID_ARGUMENT", "expected UINT8 [-1, 128, 128, 3]", lambda: b.infer(ask))
    b.same(b.infer(b.images()))


@check
def a_wrong_datatype(b: Bench) -> None:
    ask = b.input("images", "FP32", b.expected["images"].astype("float32"))
    b.refused("400 INVALID_ARGUMENT", "found images FP32", lambda: b.infer(ask))


@check
def unknown_tensors(b: Bench) -> None:
    ask = b.input("pictures", "UINT8", b.expected["images"])
    b.refused("400 INVALID_ARGUMENT", "'pictures'", lambda: b.infer(ask))
    wanted = b.wanted("scores")
    b.refused("400 INVALID_ARGUMENT", "'scores'", lambda: b.infer(b.images(), outputs=wanted))


@check
def too_large_a_batch(b: Bench) -> None:
    ask = b.input("images", "UINT8", b.expected["images"].repeat(3, axis=0))
    b.refused("400 INVALID_ARGUMENT", "takes 1 to 8", lambda: b.infer(ask))


@check
def a_broken_picture(b: Bench) -> None:
    ask = b.input("image", "BYTES", b.expected["broken"])
    b.refused("400 INVALID_ARGUMENT", "not a picture", lambda: b.infer(ask))


@check
def shared_memory_is_not_there(b: Bench) -> None:
    ask = b.lib.InferInput("images", [1, 128, 128, 3], "UINT8")
    ask.set_shared_memory("region", 128 * 128 * 3)
    b.refused("501 UNIMPLEMENTED", "shared memory", lambda: b.infer(ask))


@check
def models_cannot_be_loaded(b: Bench) -> None:
    b.refused("501 UNIMPLEMENTED", "", lambda: b.client.load_model("demo"))
    b.refused("501 UNIMPLEMENTED", "", lambda: b.client.unload_model("demo"))


@check
def a_time_of_the_server_that_is_over(b: Bench) -> None:
    b.refused("504 DEADLINE_EXCEEDED", "time", lambda: b.infer(b.images(), timeout=1))
    b.same(b.infer(b.images(), timeout=60_000_000))


@check
def a_time_of_the_client_that_is_over(b: Bench) -> None:
    many = b.input("images", "UINT8", b.expected["images"].repeat(2, axis=0))
    if not b.is_http:
        b.refused("504 DEADLINE_EXCEEDED", "", lambda: b.infer(many, client_timeout=1e-4))
        return
    is_aio = b.transport.endswith("aio")
    impatient = b.connect(**{"conn_timeout" if is_aio else "network_timeout": 1e-4})
    told = "it was answered"
    try:
        impatient.infer("demo", [many])
    except Exception as error:  # of the library below: each has its own
        told = f"{type(error).__name__} {error}"
    impatient.close()
    assert "time" in told.lower(), told


@check_of("http", "grpc")
def requests_side_by_side(b: Bench) -> None:
    if b.is_http:
        with_many = b.connect(concurrency=4)
        waiting = [with_many.async_infer("demo", [b.images()]) for _ in range(8)]
        answers = [one.get_result() for one in waiting]
        with_many.close()
    else:
        found: queue.Queue[Any] = queue.Queue()
        for _ in range(8):
            b.client.async_infer("demo", [b.images()], lambda result, error: found.put(
                (result, error)))  # fmt: skip
        pairs = [found.get(timeout=20) for _ in range(8)]
        assert not [error for _, error in pairs if error]
        answers = [result for result, _ in pairs]
    for answer in answers:
        b.same(answer)


def _stream_requests(b: Bench) -> list[dict[str, Any]]:
    """Return requests for a stream, of which the third is bad."""
    requests = [
        {"inputs": [b.images(slice(row, row + 1))], "request_id": f"row {row}"} for row in range(3)
    ]
    bad = {"inputs": [b.input("pictures", "UINT8", b.expected["images"])], "request_id": "bad"}
    return [{"model_name": "demo", **one} for one in (*requests[:2], bad, requests[2])]


def _check_streamed(b: Bench, found: list[Any]) -> None:
    assert len(found) == 4
    for place, row in ((0, 0), (1, 1), (3, 2)):
        result, error = found[place]
        assert error is None, error
        assert result.get_response(as_json=True)["id"] == f"row {row}"
        b.same(result, slice(row, row + 1))
    assert "'pictures'" in str(found[2][1])


@check_of(*GRPC)
def a_stream_with_a_bad_request(b: Bench) -> None:
    async def requests() -> Any:
        for one in _stream_requests(b):
            yield one

    if b.transport == "grpc.aio":
        _check_streamed(b, b.client.collect(lambda client: client.stream_infer(requests())))
        return
    found: queue.Queue[Any] = queue.Queue()
    b.client.start_stream(callback=lambda result, error: found.put((result, error)))
    for one in _stream_requests(b):
        b.client.async_stream_infer(**one)
    answers = [found.get(timeout=20) for _ in range(4)]
    b.client.stop_stream()
    _check_streamed(b, answers)


@check_of("grpc")
def typed_contents(b: Bench) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="demo")
    tensor = request.inputs.add(name="images", datatype="UINT8", shape=[1, 128, 128, 3])
    tensor.contents.uint_contents.extend(b.expected["images"][0].ravel().tolist())
    chosen = request.inputs.add(name="class_ids", datatype="INT64", shape=[1, 2])
    chosen.contents.int64_contents.extend(b.expected["explained_chosen"][0].tolist())
    with grpc.insecure_channel(b.address) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    b.same(b.lib.InferResult(answer), suffix="_chosen")


def main() -> None:
    import numpy as np

    addresses = dict(zip(("http", "grpc"), sys.argv[1:3], strict=True))
    with np.load(sys.argv[3]) as file:
        expected = dict(file)
    for name in ("encoded", "broken"):  # numpy has byte strings with zeros as numbers alone
        expected[name] = np.array([expected[name].tobytes()], object)
    for transport in TRANSPORTS:
        bench = Bench(transport, addresses[transport.partition(".")[0]], expected)
        for name, function in CHECKS.items():
            if name.startswith(f"{transport}-"):
                _tell(name, function, bench)
        bench.client.close()


def _tell(name: str, function: Callable[[Bench], None], bench: Bench) -> None:
    try:
        function(bench)
        told = {"check": name, "passed": True, "why": ""}
    except Exception:
        told = {"check": name, "passed": False, "why": traceback.format_exc()}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
