"""Bad requests over gRPC, and the status that each of them gets."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tame_deploy.serving.grpc.schema import SERVICE, message
from tests.serving.http_probes import ONE, PIXELS, SIDE, WIDE, png

INVALID = "INVALID_ARGUMENT"


@dataclass(frozen=True)
class Probe:
    """A request, as a message or as bytes, and what it should come to."""

    name: str
    request: Any
    code: str = INVALID
    says: str = ""
    method: str = "ModelInfer"

    @property
    def path(self) -> str:
        return f"/{SERVICE}/{self.method}"

    @property
    def data(self) -> bytes:
        return self.request if isinstance(self.request, bytes) else self.request.SerializeToString()


def good_request() -> Any:
    """Return a request for the logits of a black picture."""
    request = message("ModelInferRequest")(model_name="demo")
    request.inputs.add(name="images", datatype="UINT8", shape=ONE)
    request.outputs.add(name="logits")
    request.raw_input_contents.append(PIXELS)
    return request


def spoiled(
    name: str, spoil: Callable[[Any], object], code: str = INVALID, says: str = ""
) -> Probe:
    """Return a good request with something done to it."""
    request = good_request()
    spoil(request)
    return Probe(name, request, code, says)


def shaped(
    name: str,
    datatype: str,
    shape: list[int],
    raw: bytes = PIXELS,
    *,
    of: str = "images",
    says: str = "",
) -> Probe:
    """Return a probe with one raw input."""

    def spoil(request: Any) -> None:
        del request.inputs[:], request.raw_input_contents[:]
        request.inputs.add(name=of, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)

    return spoiled(name, spoil, says=says)


def typed(name: str, datatype: str, says: str = "", **contents: Any) -> Probe:
    """Return a probe with its picture as typed contents."""

    def spoil(request: Any) -> None:
        del request.raw_input_contents[:]
        request.inputs[0].datatype = datatype
        for place, values in contents.items():
            getattr(request.inputs[0].contents, place).extend(values)

    return spoiled(name, spoil, says=says)


def classed(
    name: str, shape: list[int], *ids: int, datatype: str = "INT64", says: str = ""
) -> Probe:
    """Return a probe with classes beside its picture."""

    def spoil(request: Any) -> None:
        request.inputs.add(name="class_ids", datatype=datatype, shape=shape)
        kind = "q" if datatype == "INT64" else "i"
        request.raw_input_contents.append(struct.pack(f"<{len(ids)}{kind}", *ids))

    return spoiled(name, spoil, says=says)


def pictured(name: str, *files: bytes, says: str = "", shape: list[int] | None = None) -> Probe:
    raw = b"".join(struct.pack("<I", len(file)) + file for file in files)
    return shaped(name, "BYTES", shape or [len(files), 1], raw, of="image", says=says)


def output(name: str, of: str, code: str = INVALID, says: str = "", **parameters: Any) -> Probe:
    def spoil(request: Any) -> None:
        request.outputs[0].name = of
        _set(request.outputs[0].parameters, parameters)

    return spoiled(name, spoil, code, says)


def _set(parameters: Any, values: dict[str, Any]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for key, value in values.items():
        setattr(parameters[key], kinds[type(value)], value)


def asking(method: str, name: str, code: str, /, **fields: Any) -> Probe:
    return Probe(name, message(f"{method}Request")(**fields), code, method=method)


_TWO = message("ModelInferRequest")(model_name="demo", outputs=[{"name": "logits"}] * 2)
_PARTS = message("ModelInferRequest")(model_name="demo").SerializeToString()

INPUTS = (
    shaped("smaller-pictures", "UINT8", [1, 64, 64, 3], bytes(64 * 64 * 3), says="expected UINT8"),
    shaped("no-batch", "UINT8", ONE[1:], says="expected UINT8"),
    shaped("another-datatype", "FP32", ONE, PIXELS * 4, says="found images FP32"),
    shaped("unknown-datatype", "UINT9", ONE, says="UINT9"),
    shaped("no-datatype", "", ONE),
    shaped("unknown-input", "UINT8", ONE, of="pictures", says="'pictures'"),
    shaped("input-without-a-name", "UINT8", ONE, of=""),
    shaped("classes-but-no-picture", "INT64", [1, 1], bytes(8), of="class_ids", says="neither"),
    shaped("negative-size", "UINT8", [-1, SIDE, SIDE, 3]),
    shaped("two-negative-sizes", "UINT8", [1, -SIDE, -SIDE, 3]),
    shaped("sizes-whose-product-overflows", "UINT8", [2**31 - 1] * 4),
    shaped("a-size-of-63-bits", "UINT8", [2**63 - 1, SIDE, SIDE, 3]),
    shaped("a-hundred-sizes", "UINT8", [1] * 100, says="shape"),
    shaped("no-sizes", "UINT8", []),
    shaped("no-pictures", "UINT8", [0, SIDE, SIDE, 3], b"", says="found 0 pictures"),
    shaped("nine-pictures", "UINT8", [9, *ONE[1:]], PIXELS * 9, says="takes 1 to 8"),
    shaped("too-few-bytes", "UINT8", ONE, PIXELS[:-1], says="49151 bytes"),
    shaped("too-many-bytes", "UINT8", ONE, PIXELS + b"x", says="49153 bytes"),
    spoiled("no-inputs", lambda request: request.inputs.__delitem__(slice(None))),
    spoiled("images-twice",
            lambda request: (request.inputs.append(request.inputs[0]),
                           request.raw_input_contents.append(PIXELS)), says="named twice"),
    spoiled("images-and-image",
            lambda request: (request.inputs.add(name="image", datatype="BYTES", shape=[1, 1]),
                           request.raw_input_contents.append(b"\1\0\0\0x")), says="both images"),
    spoiled("an-input-too-many",
            lambda request: (request.inputs.add(name="more", datatype="UINT8", shape=[1]),
                           request.raw_input_contents.append(b"x")), says="'more'"),
    spoiled("more-raw-contents-than-inputs",
            lambda request: request.raw_input_contents.append(PIXELS), says="2 raw_input_contents"),
    spoiled("fewer-raw-contents-than-inputs",
            lambda request: request.inputs.add(name="class_ids", datatype="INT64", shape=[1, 1]),
            says="1 raw_input_contents"),
    spoiled("raw-and-typed-contents",
            lambda request: request.inputs[0].contents.uint_contents.extend(PIXELS),
            says="both contents and raw"),
    spoiled("one-raw-and-one-typed",
            lambda request: request.inputs.add(name="class_ids", datatype="INT64", shape=[1, 1],
                                           contents={"int64_contents": [0]})),
    spoiled("no-contents", lambda request: request.raw_input_contents.__delitem__(0)),
    typed("another-kind-of-contents", "UINT8", says="uint_contents",
          fp32_contents=[0.0] * len(PIXELS)),
    typed("two-kinds-of-contents", "UINT8", uint_contents=PIXELS, int_contents=[1]),
    typed("typed-fp16", "FP16", fp32_contents=[0.0] * len(PIXELS)),
    typed("a-value-too-large", "UINT8", says="beyond UINT8",
          uint_contents=[256] + [0] * (len(PIXELS) - 1)),
    typed("too-few-values", "UINT8", says="elements", uint_contents=[0] * 100),
    typed("too-many-values", "UINT8", uint_contents=[0] * (len(PIXELS) + 1)),
    typed("contents-of-an-unknown-datatype", "UINT9", uint_contents=PIXELS),
    spoiled("input-in-shared-memory",
            lambda request: (_set(request.inputs[0].parameters, {"shared_memory_region": "r"}),
                           request.raw_input_contents.__delitem__(0)), "UNIMPLEMENTED", "shared"),
    classed("class-too-large", [1, 1], 6, says="expected -1 to 5"),
    classed("class-too-small", [1, 1], -50, says="expected -1 to 5"),
    classed("classes-without-a-batch", [1], 0, says="expected INT64 [1, -1]"),
    classed("classes-of-another-batch", [2, 1], 0, 1, says="expected INT64 [1, -1]"),
    classed("classes-as-int32", [1, 1], 0, datatype="INT32", says="INT32"),
    classed("no-classes", [1, 0], says="0 classes"),
    classed("101-classes", [1, 101], *[0] * 101, says="101 classes"),
    classed("likeliest-beyond-the-ranks", [1, 100], *[-1] * 100, says="rank"),
    pictured("text-as-a-picture", b"a ring", says="not a picture"),
    pictured("an-empty-picture", b"", says="not a picture"),
    pictured("the-second-is-no-picture", png(2, 2, zlib.compress(bytes(6))), b"x",
             says="picture 1"),
    pictured("a-png-of-400-megapixels", WIDE, says="megapixels"),
    pictured("pictures-in-two-columns", b"a", b"b", shape=[1, 2], says="expected BYTES"),
    pictured("fewer-pictures-than-the-shape", b"a", shape=[2, 1], says="elements"),
    shaped("a-picture-longer-than-the-bytes", "BYTES", [1, 1],
           struct.pack("<I", 2**32 - 1) + b"GIF8", of="image", says="before a string"),
    shaped("half-a-length", "BYTES", [1, 1], b"\1\0\0", of="image", says="length"),
)  # fmt: skip

REST = (
    output("unknown-output", "scores", says="'scores'"),
    output("output-without-a-name", ""),
    spoiled("output-twice", lambda request: request.outputs.add(name="logits"), says="named twice"),
    output("classification-of-maps", "maps", says="classification", classification=2),
    output("classification-negative", "logits", says="classification", classification=-1),
    output("classification-of-too-many", "logits", says="expected 1 to 6", classification=7),
    output("classification-as-text", "logits", says="classification", classification="2"),
    output("classification-is-true", "logits", says="classification", classification=True),
    output("output-in-shared-memory", "logits", "UNIMPLEMENTED", "shared memory",
           shared_memory_region="r", shared_memory_byte_size=24),
    spoiled("id-is-too-long", lambda request: setattr(request, "id", "x" * 257), says="257"),
    spoiled("timeout-as-text", lambda request: _set(request.parameters, {"timeout": "soon"}),
            says="timeout"),
    spoiled("timeout-negative", lambda request: _set(request.parameters, {"timeout": -1}),
            says="timeout"),
    spoiled("unknown-model", lambda request: setattr(request, "model_name", "other"), "NOT_FOUND",
            "'other'"),
    spoiled("no-model", lambda request: setattr(request, "model_name", ""), "NOT_FOUND"),
    spoiled("unknown-version", lambda request: setattr(request, "model_version", "2"), "NOT_FOUND",
            "version"),
    spoiled("a-version-that-is-text", lambda request: setattr(request, "model_version", "new"),
            "NOT_FOUND"),
    Probe("an-empty-message", b"", "NOT_FOUND"),
    Probe("a-request-of-nothing-but-a-model", _PARTS, says="no inputs"),
    Probe("outputs-and-no-inputs", _TWO, says="no inputs"),
    *(
        Probe(name, data, says="cut off")
        for name, data in (
            ("garbage", b"\xff" * 64),
            ("a-message-that-is-cut-off", good_request().SerializeToString()[:-100]),
            ("a-length-beyond-the-message", b"\x0a\xff\xff\xff\xff\x07demo"),
            ("text-that-is-not-utf-8", b"\x0a\x02\xff\xfe"),
            ("a-group-that-never-ends", b"\x0b" * 1000),
        )
    ),
    asking("ModelMetadata", "metadata-of-an-unknown-model", "NOT_FOUND", name="other"),
    asking("ModelMetadata", "metadata-of-an-unknown-version", "NOT_FOUND", name="demo",
           version="2"),
    asking("ModelConfig", "config-of-an-unknown-model", "NOT_FOUND", name="other"),
    asking("ModelStatistics", "stats-of-an-unknown-model", "NOT_FOUND", name="other"),
    *(
        Probe(method, b"", "UNIMPLEMENTED", f"{method} is not implemented", method=method)
        for method in ("RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus",
                       "SystemSharedMemoryRegister", "CudaSharedMemoryStatus", "TraceSetting",
                       "LogSettings", "NoSuchMethod")
    ),
)  # fmt: skip

PROBES = (*INPUTS, *REST)
