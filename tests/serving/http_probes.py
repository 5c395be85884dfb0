"""Bad requests over HTTP, and the status that each of them gets."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INFER = "/v2/models/demo/infer"
EXPLAIN = "/v2/models/demo/explain"
SIDE = 128
PIXELS = bytes(SIDE * SIDE * 3)
ONE = [1, SIDE, SIDE, 3]
LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Probe:
    """A request and what it should come to; `says` are words of the error."""

    name: str
    body: bytes = b""
    headers: Mapping[str, object] = field(default_factory=dict)
    status: int = 400
    says: str = ""
    path: str = INFER
    method: str = "POST"


def tensor(name: str, datatype: str, shape: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def sized(name: str, datatype: str, shape: Any, size: Any, **more: Any) -> dict[str, Any]:
    return tensor(name, datatype, shape, parameters={"binary_data_size": size}, **more)


IMAGES = sized("images", "UINT8", ONE, len(PIXELS))


def asking(name: str, *inputs: Any, status: int = 400, says: str = "", **more: Any) -> Probe:
    """Return a probe with its tensors as JSON."""
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return Probe(name, body, status=status, says=says)


def behind(
    name: str, *inputs: Any, tail: bytes = PIXELS, status: int = 400, says: str = "", **more: Any
) -> Probe:
    """Return a probe with raw bytes behind its JSON."""
    text = json.dumps({"inputs": list(inputs), **more}).encode()
    return Probe(name, text + tail, {LENGTH: len(text)}, status, says)


def good_request(path: str = INFER) -> tuple[str, bytes, dict[str, object]]:
    """Return path, body and headers of a request that is answered with six logits in JSON."""
    probe = behind("good", IMAGES, outputs=[{"name": "logits"}])
    return path, probe.body, dict(probe.headers)


def class_ids(shape: list[int], *values: Any, datatype: str = "INT64") -> dict[str, Any]:
    return tensor("class_ids", datatype, shape, data=list(values))


def with_classes(
    name: str, shape: list[int], *values: Any, datatype: str = "INT64", says: str = ""
) -> Probe:
    return behind(name, IMAGES, class_ids(shape, *values, datatype=datatype), says=says)


def valued(name: str, *values: Any, says: str = "") -> Probe:
    """Return a probe whose picture begins with values of other kinds."""
    data = [*values, *[0] * (len(PIXELS) - len(values))]
    return asking(name, tensor("images", "UINT8", ONE, data=data), says=says)


def written(name: str, value: str, says: str = "") -> Probe:
    """Return a probe with a value that JSON in Python would not write."""
    data = ",".join([value, *["0"] * (len(PIXELS) - 1)])
    shape = f'"shape":{ONE},"datatype":"UINT8"'
    text = f'{{"inputs":[{{"name":"images",{shape},"data":[{data}]}}]}}'
    return Probe(name, text.encode(), says=says)


def output(name: str, /, status: int = 400, says: str = "", **wanted: Any) -> Probe:
    return behind(name, IMAGES, outputs=[wanted], status=status, says=says)


def encoded(name: str, *files: bytes, says: str = "", shape: Any = None) -> Probe:
    """Return a probe with encoded pictures."""
    raw = b"".join(struct.pack("<I", len(file)) + file for file in files)
    described = sized("image", "BYTES", shape or [len(files), 1], len(raw))
    return behind(name, described, tail=raw, says=says)


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a grey PNG with packed rows that need not be as many as it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    )


def long_text_png() -> bytes:
    """Return a small picture with a comment that unpacks to 200 MiB."""
    text = b"comment\x00\x00" + zlib.compress(bytes(200 * 2**20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    plain = png(2, 2, zlib.compress(bytes(6)))
    return plain[:33] + chunk + plain[33:]


DEEP = 100_000
WIDE = png(20_000, 20_000, zlib.compress(bytes(2_000_000)))
_LONG = {"name": "images", "shape": ONE, "datatype": "UINT8"}
_FORM = "multipart/form-data; boundary=edge"

TENSORS = (
    behind("smaller-pictures", sized("images", "UINT8", [1, 64, 64, 3], 12288), tail=bytes(12288),
           says="expected UINT8 [-1, 128, 128, 3]"),
    behind("no-batch", sized("images", "UINT8", ONE[1:], len(PIXELS)), says="expected UINT8"),
    behind("channels-first", sized("images", "UINT8", [1, 3, SIDE, SIDE], len(PIXELS))),
    behind("another-datatype", sized("images", "FP32", ONE, 4 * len(PIXELS)), tail=PIXELS * 4,
           says="found images FP32"),
    behind("unknown-datatype", sized("images", "UINT9", ONE, len(PIXELS)), says="UINT9"),
    behind("bfloat16", sized("images", "BF16", ONE, 2 * len(PIXELS)), tail=PIXELS * 2),
    behind("datatype-is-a-number", sized("images", 8, ONE, len(PIXELS))),
    behind("datatype-is-half-a-character", sized("images", "\ud800", ONE, len(PIXELS))),
    behind("no-datatype", {"name": "images", "shape": ONE,
                           "parameters": {"binary_data_size": len(PIXELS)}}),
    behind("unknown-input", sized("pictures", "UINT8", ONE, len(PIXELS)), says="'pictures'"),
    behind("half-a-character-as-a-name", sized("\udcff", "UINT8", ONE, len(PIXELS))),
    behind("input-without-a-name", sized("", "UINT8", ONE, len(PIXELS))),
    asking("classes-but-no-picture", class_ids([1, 1], 0), says="neither images nor image"),
    behind("images-and-image", IMAGES, sized("image", "BYTES", [1, 1], 5),
           tail=PIXELS + b"\1\0\0\0x", says="both"),
    behind("an-input-too-many", IMAGES, tensor("more", "INT64", [1], data=[1]), says="'more'"),
    behind("images-twice", IMAGES, IMAGES, tail=PIXELS * 2, says="named twice"),
    asking("inputs-is-empty", says="no inputs"),
    Probe("no-inputs", b"{}", says="inputs"),
    Probe("inputs-is-an-object", b'{"inputs": {}}', says="no list"),
    Probe("inputs-is-null", b'{"inputs": null}', says="no list"),
    asking("an-input-is-a-number", 7, says="no JSON object"),
    Probe("a-list", b"[]", says="no JSON object"),
    Probe("null", b"null", says="no JSON object"),
    Probe("empty-body", b"", says="not valid JSON"),
    Probe("no-json", b"picture", says="not valid JSON"),
    Probe("json-cut-off", b'{"inputs": [', says="not valid JSON"),
    Probe("not-utf-8", b'{"inputs": "\xff"}', says="not valid JSON"),
    Probe("a-nul-in-json", b'{"inputs"\x00: []}', says="not valid JSON"),
    written("not-a-number", "NaN", says="NaN"),
    written("infinity", "-Infinity", says="-Infinity"),
    written("beyond-any-float", "1e999"),
    written("a-number-of-5000-digits", "1" * 5000),
    Probe("deep-lists", b"[" * DEEP + b"]" * DEEP, says="nested"),
    Probe("deep-objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP, says="nested"),
    Probe("deep-data", json.dumps({"inputs": [{**_LONG, "data": "DATA"}]}).encode()
          .replace(b'"DATA"', b"[" * 900 + b"0" + b"]" * 900)),
    valued("strings", "0", "1"),
    valued("booleans-among-numbers", True, False),
    valued("floats", 0.5, says="no UINT8"),
    valued("nulls", None),
    valued("objects", {}),
    valued("a-long-string-among-numbers", "x" * 50_000),  # as a matrix of strings, huge
    valued("a-value-too-large", 256, says="beyond UINT8"),
    valued("a-value-too-small", -1, says="beyond UINT8"),
    valued("a-value-beyond-64-bits", 2**70),
    valued("a-value-of-400-digits", 10**400),
    asking("ragged", tensor("images", "UINT8", ONE, data=[[0, 1], [2]]), says="different lengths"),
    asking("too-few-values", tensor("images", "UINT8", ONE, data=[0] * 100), says="100 elements"),
    asking("too-many-values", tensor("images", "UINT8", ONE, data=[0] * (len(PIXELS) + 1))),
    asking("data-is-a-number", tensor("images", "UINT8", ONE, data=0), says="no list"),
    asking("data-is-an-object", tensor("images", "UINT8", ONE, data={"0": 0}), says="no list"),
    asking("no-data", tensor("images", "UINT8", ONE), says="no data"),
    behind("negative-size", sized("images", "UINT8", [-1, SIDE, SIDE, 3], len(PIXELS))),
    behind("two-negative-sizes", sized("images", "UINT8", [1, -SIDE, -SIDE, 3], len(PIXELS))),
    behind("size-beyond-64-bits", sized("images", "UINT8", [2**64, SIDE, SIDE, 3], len(PIXELS))),
    behind("sizes-whose-product-overflows", sized("images", "UINT8", [2**31 - 1] * 4, len(PIXELS))),
    behind("sizes-of-a-terabyte", sized("images", "UINT8", [2**40], len(PIXELS))),
    behind("half-a-size", sized("images", "UINT8", [0.5, SIDE, SIDE, 3], len(PIXELS))),
    behind("sizes-as-text", sized("images", "UINT8", ["1", "128", "128", "3"], len(PIXELS))),
    behind("a-boolean-size", sized("images", "UINT8", [True, SIDE, SIDE, 3], len(PIXELS))),
    behind("shape-is-a-number", sized("images", "UINT8", len(PIXELS), len(PIXELS)), says="shape"),
    behind("no-shape", {"name": "images", "datatype": "UINT8",
                        "parameters": {"binary_data_size": len(PIXELS)}}, says="shape"),
    behind("a-hundred-sizes", sized("images", "UINT8", [1] * 100, len(PIXELS)), says="shape"),
    behind("no-pictures", sized("images", "UINT8", [0, SIDE, SIDE, 3], 0), tail=b"",
           says="found 0 pictures"),
    behind("nine-pictures", sized("images", "UINT8", [9, *ONE[1:]], 9 * len(PIXELS)),
           tail=PIXELS * 9, says="takes 1 to 8"),
)  # fmt: skip

RAW = (
    behind("data-beside-raw-bytes", {**IMAGES, "data": [0]}, says="both data and"),
    behind("raw-size-negative", sized("images", "UINT8", ONE, -1), says="binary_data_size -1"),
    behind("raw-size-absurd", sized("images", "UINT8", ONE, 10**18), says="the body ends before"),
    behind("raw-size-of-400-digits", sized("images", "UINT8", ONE, 10**400)),
    behind("raw-size-as-text", sized("images", "UINT8", ONE, "49152"), says="binary_data_size"),
    behind("raw-size-is-true", sized("images", "UINT8", ONE, True), says="binary_data_size"),
    behind("raw-size-of-another-shape", sized("images", "UINT8", ONE, 100), tail=bytes(100)),
    behind("raw-bytes-cut-off", IMAGES, tail=PIXELS[:-1], says="the body ends before"),
    behind("raw-bytes-go-on", IMAGES, tail=PIXELS + b"x", says="1 bytes follow"),
    behind("parameters-of-an-input-is-a-list", {**IMAGES, "parameters": []}),
    *(
        Probe(f"json-length-{name}", json.dumps({"inputs": [IMAGES]}).encode() + PIXELS,
              {LENGTH: length}, says=says)
        for name, length, says in (
            ("negative", -5, LENGTH), ("as-text", "many", LENGTH), ("in-hex", "0x60", LENGTH),
            ("with-a-plus", "+100", LENGTH), ("two-numbers", "100, 200", LENGTH),
            ("absurd", "9" * 400, LENGTH), ("larger-than-the-body", 10**6, "the body has"),
            ("zero", 0, "not valid JSON"), ("too-short", 40, "not valid JSON"),
            ("too-long", 200, "not valid JSON"),
        )
    ),
)  # fmt: skip

OUTPUTS = (
    output("unknown-output", name="scores", says="'scores'"),
    output("output-without-a-name", says="no name"),
    output("output-is-named-by-a-number", name=1),
    behind("output-twice", IMAGES, outputs=[{"name": "logits"}] * 2, says="named twice"),
    behind("outputs-is-an-object", IMAGES, outputs={"name": "logits"}, says="no list"),
    output("classification-of-maps", name="maps", parameters={"classification": 2},
           says="classification"),
    output("classification-negative", name="logits", parameters={"classification": -1}),
    output("classification-of-too-many", name="logits", parameters={"classification": 7},
           says="expected 1 to 6"),
    output("classification-as-text", name="logits", parameters={"classification": "2"}),
    output("classification-of-400-digits", name="logits", parameters={"classification": 10**400}),
    output("raw-output-as-text", name="logits", parameters={"binary_data": "yes"}),
    output("output-in-shared-memory", name="logits", status=501, says="shared memory",
           parameters={"shared_memory_region": "r", "shared_memory_byte_size": 24}),
    behind("input-in-shared-memory", tensor(
        "images", "UINT8", ONE,
        parameters={"shared_memory_region": "r", "shared_memory_byte_size": len(PIXELS)},
    ), status=501, says="shared memory"),
    behind("id-is-a-number", IMAGES, id=7, says="id"),
    behind("id-is-too-long", IMAGES, id="x" * 257, says="257"),
    behind("parameters-is-a-list", IMAGES, parameters=[], says="parameters"),
    behind("timeout-as-text", IMAGES, parameters={"timeout": "soon"}, says="timeout"),
    behind("timeout-negative", IMAGES, parameters={"timeout": -1}, says="timeout"),
    behind("timeout-of-400-digits", IMAGES, parameters={"timeout": 10**400}),
)  # fmt: skip

CLASSES = (
    with_classes("class-too-large", [1, 1], 6, says="expected -1 to 5"),
    with_classes("class-too-small", [1, 1], -50, says="expected -1 to 5"),
    with_classes("class-far-too-small", [1, 1], -(2**63)),
    with_classes("classes-without-a-batch", [1], 0, says="expected INT64 [1, -1]"),
    with_classes("classes-of-another-batch", [2, 1], 0, 1, says="expected INT64 [1, -1]"),
    with_classes("classes-as-int32", [1, 1], 0, datatype="INT32", says="INT32"),
    with_classes("no-classes", [1, 0], says="0 classes"),
    with_classes("101-classes", [1, 101], *[0] * 101, says="101 classes"),
    with_classes("likeliest-beyond-the-ranks", [1, 100], *[-1] * 100, says="rank"),
    with_classes("a-class-and-a-half", [1, 1], 1.5),
    with_classes("class-by-name", [1, 1], "ring"),
)

PICTURES = (
    encoded("text-as-a-picture", b"a ring", says="not a picture"),
    encoded("an-empty-picture", b"", says="not a picture"),
    encoded("the-second-is-no-picture", png(2, 2, zlib.compress(bytes(6))), b"x",
            says="picture 1"),
    encoded("a-png-of-400-megapixels", WIDE, says="megapixels"),
    encoded("a-png-with-too-few-rows", png(64, 64, zlib.compress(b"\0"))),
    encoded("pictures-in-two-columns", b"a", b"b", shape=[1, 2], says="expected BYTES"),
    encoded("fewer-pictures-than-the-shape", b"a", shape=[2, 1], says="elements"),
    behind("a-picture-longer-than-the-bytes", sized("image", "BYTES", [1, 1], 8),
           tail=struct.pack("<I", 2**32 - 1) + b"GIF8", says="before a string"),
    behind("half-a-length", sized("image", "BYTES", [1, 1], 3), tail=b"\1\0\0", says="length"),
    behind("a-picture-of-uint8", sized("image", "UINT8", [1, 8], 8), tail=bytes(8)),
    asking("a-picture-that-is-not-base64", tensor("image", "BYTES", [1, 1], data=["a b!"]),
           says="base64"),
    asking("a-picture-that-is-a-number", tensor("image", "BYTES", [1, 1], data=[7])),
)  # fmt: skip

ROUTES = (
    Probe("unknown-model", path="/v2/models/other/infer", status=404, says="'other'"),
    Probe("unknown-version", path="/v2/models/demo/versions/2/infer", status=404, says="version"),
    Probe("a-version-that-is-text", path="/v2/models/demo/versions/new/infer", status=404),
    Probe("a-model-outside-of-its-folder", path="/v2/models/%2e%2e%2fdemo/infer", status=404),
    Probe("a-model-with-a-line-break", path="/v2/models/a%0Ab/infer", status=404),
    Probe("get-infer", path=INFER, method="GET", status=405),
    Probe("put-infer", path=INFER, method="PUT", status=405),
    Probe("an-unknown-method", path=INFER, method="PURGE", status=405),
    Probe("unknown-route", path="/v3", method="GET", status=404, says="not found"),
    Probe("metadata-of-an-unknown-model", path="/v2/models/other", method="GET", status=404),
    Probe("config-of-an-unknown-model", path="/v2/models/other/config", method="GET", status=404),
    Probe("stats-of-an-unknown-model", path="/v2/models/other/stats", method="GET", status=404),
    Probe("is-an-unknown-model-ready", path="/v2/models/other/ready", method="GET", status=404),
    Probe("loading-a-model", b"{}", path="/v2/repository/models/demo/load", status=501),
    Probe("index-with-bad-json", b"{", path="/v2/repository/index"),
    Probe("index-ready-as-text", b'{"ready": "yes"}', path="/v2/repository/index"),
    Probe("shared-memory-status", path="/v2/systemsharedmemory/status", method="GET", status=501),
    Probe("unknown-encoding", b"{}", {"content-encoding": "br"}, 415, "expected gzip or deflate"),
    Probe("gzip-that-is-none", b"{}", {"content-encoding": "gzip"}, says="not gzip"),
    Probe("deflate-that-is-none", b"{}", {"content-encoding": "deflate"}, says="not deflate"),
    Probe("gzip-of-nothing", b"", {"content-encoding": "gzip"}),
)  # fmt: skip


def explaining(
    name: str, body: bytes = b"x", query: str = "", says: str = "", **headers: str
) -> Probe:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Probe(name, body, named, says=says, path=EXPLAIN + query)


def explain_probes(picture: bytes, jpeg: bytes) -> tuple[Probe, ...]:
    """Return bad requests to explain, made of good files."""
    part = b'--edge\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n--edge--\r\n'
    return (
        explaining("explain-text", b"a ring", says="not a picture"),
        explaining("explain-nothing", b""),
        explaining("explain-half-a-jpeg", jpeg[: len(jpeg) // 2]),
        explaining("explain-half-a-png", picture[: len(picture) // 2]),
        explaining("explain-400-megapixels", WIDE, says="megapixels"),
        explaining("explain-an-unknown-query", picture, "?colour=red", says="'colour'"),
        *(
            explaining(f"explain-top-k-{text}", picture, f"?top_k={text}", says="top_k")
            for text in ("0", "-1", "many", "1.5", "999999999999999999", "")
        ),
        explaining("explain-top-k-twice", picture, "?top_k=2&top_k=3", says="more than once"),
        explaining("explain-maps-twice", picture, "?maps=png&maps=list", says="more than once"),
        explaining("explain-top-k-and-a-class", picture, "?top_k=1&class_id=0", says="both"),
        explaining("explain-an-unknown-label", picture, "?label=unicorn", says="unicorn"),
        explaining("explain-an-unknown-class", picture, "?class_id=6", says="class_id"),
        explaining("explain-too-many-classes", picture, "?" + "&".join(["class_id=0"] * 101),
                   says="100"),
        explaining("explain-with-unknown-maps", picture, "?maps=gif", says="maps"),
        explaining("explain-with-unknown-overlay", picture, "?overlay=yes", says="overlay"),
        explaining("explain-with-unknown-picture", picture, "?picture=yes", says="picture"),
        explaining("explain-top-of-none", picture, "?top=0", says="top"),
        explaining("a-form-without-the-field", part % (b"file", b'; filename="a"', picture),
                   says="field image", content_type=_FORM),
        explaining("a-form-with-text-as-the-field", part % (b"image", b"", b"ring"),
                   says="field image", content_type=_FORM),
        explaining("a-form-with-an-empty-file", part % (b"image", b'; filename="a"', b""),
                   content_type=_FORM),
        explaining("a-form-without-an-edge", picture, content_type="multipart/form-data"),
        explaining("a-form-with-another-edge", picture, content_type=_FORM),
        explaining("a-form-that-is-cut-off", (part % (b"image", b'; filename="a"', picture))[:90],
                   content_type=_FORM),
        explaining("a-form-of-an-unknown-charset", part % (b"image", b"", b"ring"),
                   content_type=_FORM + "; charset=none"),
    )  # fmt: skip


PROBES = (*TENSORS, *RAW, *OUTPUTS, *CLASSES, *PICTURES, *ROUTES)
