"""The requests of soak.py: drawn at random, with what must come of each."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from serving_load import KINDS, MODEL, Arrays, decoded, http_request

LOGITS, MAPS = 1e-4, 1e-3
MOST_ROWS, MOST_CLASSES = 8, 3
PATH = f"/v2/models/{MODEL}/infer"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Pictures, and what the runtime says of each: its logits, and the maps of all classes."""

    files: list[bytes]
    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    logits: NDArray[np.float32]  # (N, C)
    maps: NDArray[np.float32]  # (N, C, h, w)

    def expected(self, rows: list[int], class_ids: list[list[int]]) -> Arrays:
        """Return the right answer; -1 in place j is the j-th likeliest class."""
        likeliest = np.argsort(-self.logits[rows], axis=1)[:, : len(class_ids[0])]
        explained = np.where(np.array(class_ids) < 0, likeliest, class_ids)
        maps = self.maps[np.array(rows)[:, None], explained]
        return {"logits": self.logits[rows], "explained": explained, "maps": maps}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as bytes, and what must come of it."""

    kind: str
    transport: str  # http, grpc or stream
    data: bytes
    expected: Arrays | None = None  # or it is refused
    status: str = "200"


def export_demo(folder: Path) -> Path:
    """Export the demo, whose weights are trained and bundled."""
    from peers import make_artifact

    return make_artifact("demo", folder)


def run_reference(path: Path) -> Reference:
    """Return what the runtime says of the demo's pictures, and of drawn ones in other sizes."""
    import tame_deploy
    from tame_deploy.data.shapes import draw_picture
    from tame_deploy.picture.preprocess import load_image, prepare_batch

    folder = Path(tame_deploy.__file__).parent / "data" / "pictures"
    files = [one.read_bytes() for one in sorted(folder.glob("*.png"))]
    for seed in range(6):
        file = io.BytesIO()
        drawn = draw_picture(seed, 200)[0].resize((320, 180 + 40 * seed))
        drawn.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    with tame_deploy.load(path, backend="onnxruntime") as explainer:
        classes = list(range(len(explainer.labels)))
        found = explainer.explain(files, class_ids=classes)
        images = [load_image(one) for one in files]
        pixels = prepare_batch(images, explainer.artifact.manifest.image)
    return Reference(files=files, pixels=pixels, logits=found.logits, maps=found.maps)


def strings(files: list[bytes]) -> bytes:
    """Return byte strings as the protocol writes them raw."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in files)


def infer_bytes(inputs: list[tuple[str, str, list[int], Any, Any]], coding: str) -> bytes:
    """Return a request of (name, datatype, shape, raw bytes, values), coded as told."""
    from tame_deploy.serving.grpc.schema import message

    if coding == "grpc":
        request = message("ModelInferRequest")(model_name=MODEL)
        for name, kind, shape, raw, _ in inputs:
            request.inputs.add(name=name, datatype=kind, shape=shape)
            request.raw_input_contents.append(raw)
        return request.SerializeToString()
    is_raw = coding != "json"
    told = [
        {"name": name, "datatype": kind, "shape": shape}
        | ({"parameters": {"binary_data_size": len(raw)}} if is_raw else {"data": values})
        for name, kind, shape, raw, values in inputs
    ]
    head = json.dumps({"inputs": told, "parameters": {"binary_data_output": is_raw}}).encode()
    body = b"".join([head, *(one[3] for one in inputs)]) if is_raw else head
    headers = {"Inference-Header-Content-Length": str(len(head))} if is_raw else {}
    if coding == "packed":
        body = gzip.compress(body, 1)
        headers |= {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    return http_request(PATH, body, headers)


def make_request(reference: Reference, draw: random.Random, rows: int | None = None) -> Request:
    """Draw a good request."""
    coding = draw.choices(("raw", "json", "packed", "grpc", "stream", "explain"),
                          (30, 4, 3, 34, 4, 15))[0]  # fmt: skip
    places = draw.choice((1, 1, 1, *range(2, MOST_ROWS + 1))) if rows is None else rows
    if coding == "explain":
        places = 1
    chosen = draw.choices(range(len(reference.files)), k=places)
    count, classes = draw.randint(1, MOST_CLASSES), reference.logits.shape[1]
    ids = [[draw.randint(-1, classes - 1) for _ in range(count)] for _ in chosen]
    expected = reference.expected(chosen, ids)
    if coding == "explain":
        query = "&".join(f"class_id={one}" for one in ids[0])
        request = http_request(
            f"/v2/models/{MODEL}/explain?{query}", reference.files[chosen[0]], {}
        )
        return Request(kind="http explain", transport="http", data=request, expected=expected)
    inputs: list[Any] = []
    as_files = draw.random() < 0.3
    if as_files:
        files = [reference.files[i] for i in chosen]
        texts = [base64.b64encode(one).decode() for one in files]
        inputs.append(("image", "BYTES", [places, 1], strings(files), texts))
    else:
        pixels = reference.pixels[chosen]
        values = pixels.ravel().tolist() if coding == "json" else None
        inputs.append(("images", "UINT8", list(pixels.shape), pixels.tobytes(), values))
    raw_ids = np.array(ids, np.int64)
    inputs.append(("class_ids", "INT64", list(raw_ids.shape), raw_ids.tobytes(), ids))
    transport = coding if coding in ("grpc", "stream") else "http"
    kind = f"{transport} {coding}, {'files' if as_files else 'tensors'}"
    data = infer_bytes(inputs, "grpc" if coding == "stream" else coding)
    return Request(kind=kind, transport=transport, data=data, expected=expected)


def bad_requests(reference: Reference) -> list[Request]:
    """Return requests that must be refused, and how."""
    one, nine = reference.pixels[:1], np.repeat(reference.pixels[:1], MOST_ROWS + 1, axis=0)

    def tensor(array: NDArray[Any], name: str = "images") -> tuple[Any, ...]:
        kind = KINDS[array.dtype.name]
        return (name, kind, list(array.shape), array.tobytes(), array.ravel().tolist())

    junk = ("image", "BYTES", [1], strings([b"no picture at all"]), ["bm8="])
    class_99 = [tensor(one), tensor(np.full((1, 1), 99, np.int64), "class_ids")]
    both = {
        "nine pictures": [tensor(nine)], "a wrong shape": [tensor(one[:, 1:])],
        "an unknown input": [tensor(one, "pictures")], "a class that is none": class_99,
        "a file that is none": [junk], "no pictures": [class_99[1]],
    }  # fmt: skip
    found = []
    for what, inputs in both.items():
        for coding in ("raw", "json"):
            data = infer_bytes(inputs, coding)
            found.append(Request(kind=what, transport="http", data=data, status="400"))
        data = infer_bytes(inputs, "grpc")
        found.append(Request(kind=what, transport="grpc", data=data, status="INVALID_ARGUMENT"))
    good = infer_bytes([tensor(one)], "raw")
    shared = {"name": "images", "shape": [1], "datatype": "UINT8",
              "parameters": {"shared_memory_region": "a"}}  # fmt: skip
    plain = {
        "an unknown model": (good.replace(PATH.encode(), b"/v2/models/other/infer"), "404"),
        "a wrong method": (f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), "405"),
        "broken JSON": (http_request(PATH, b'{"inputs": [', {}), "400"),
        "a body that ends early": (http_request(PATH, good[-20_000:], {
            "Inference-Header-Content-Length": "100000"}), "400"),
        "shared memory": (http_request(PATH, json.dumps({"inputs": [shared]}).encode(), {}), "501"),
        "an unknown packing": (http_request(PATH, b"a", {"Content-Encoding": "br"}), "415"),
    }  # fmt: skip
    return found + [
        Request(kind=what, transport="http", data=data, status=status)
        for what, (data, status) in plain.items()
    ]


def fault_of(request: Request, head: bytes, body: bytes) -> str:
    """Compare an answer with the runtime's; return what is wrong with it."""
    if request.expected is None:
        return f"an answer; expected {request.status}"
    if b"\r\ncontent-encoding: gzip" in head.lower():
        body = gzip.decompress(body)
    if request.kind == "http explain":
        told = json.loads(body)["explained"]
        found = {
            "explained": np.array([[one["class_id"] for one in told]]),
            "maps": np.array([[np.reshape(one["map"]["data"], one["map"]["shape"])
                               for one in told]]),
        }  # fmt: skip
    else:
        found = decoded("http" if head else "grpc", (head, body))
        if set(found) != set(request.expected):
            return f"has {', '.join(found)}"
    for name, array in found.items():
        expected = request.expected[name]
        if array.shape != expected.shape:
            return f"{name} has shape {array.shape}; expected {expected.shape}"
        far = float(np.abs(array - expected).max())
        if not far <= {"logits": LOGITS, "explained": 0, "maps": MAPS}[name]:
            return f"{name} is {far:g} off"
    return ""
