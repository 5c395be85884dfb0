"""libtame as a backend: its C functions, called from Python through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy import errors
from tame_deploy.artifact.contrast import ALONE, decode_contrast, encode_contrast
from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.types import check_feeds
from tame_deploy.closing import Closing
from tests.cpp.build import built

#: The status of tame.h for what the caller asked wrongly.
_INPUT_ERROR = 20


class _Sized(ctypes.Structure):
    """A struct whose first field says how large its caller takes it to be."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class _Options(_Sized):
    _fields_ = [
        ("struct_size", c_size_t), ("backend", c_char_p), ("library", c_char_p),
        ("precision", c_char_p), ("engine", c_char_p), ("threads", c_int32), ("streams", c_int32),
        ("device", c_int32), ("no_cuda_graphs", c_int32), ("max_pixels", c_int64),
        ("window_low", c_int32), ("window_high", c_int32),
    ]  # fmt: skip


class _Image(_Sized):
    _fields_ = [
        ("struct_size", c_size_t), ("format", c_int32), ("width", c_int32), ("height", c_int32),
        ("color", c_int32), ("data", c_void_p), ("size", c_size_t), ("stride", c_size_t),
        ("chroma", c_void_p * 2), ("chroma_size", c_size_t), ("chroma_stride", c_size_t),
        ("channels", c_int32),
    ]  # fmt: skip


class _Request(_Sized):
    _fields_ = [
        ("struct_size", c_size_t), ("class_ids", POINTER(c_int64)), ("class_count", c_size_t),
        ("class_rows", c_size_t), ("top", c_int32), ("map_width", c_int32), ("map_height", c_int32),
        ("batch_size", c_int32), ("versus", POINTER(c_int64)),
    ]  # fmt: skip


class _View(_Sized):
    _fields_ = [
        ("struct_size", c_size_t), ("logits", POINTER(c_float)), ("class_ids", POINTER(c_int64)),
        ("maps", POINTER(c_float)), ("count", c_size_t), ("classes", c_size_t),
        ("explained", c_size_t), ("map_height", c_size_t), ("map_width", c_size_t),
        ("versus_ids", POINTER(c_int64)),
    ]  # fmt: skip


class LibtameBackend(Closing):
    """Runs an artifact in libtame on ONNX Runtime, from the network's own input."""

    name, max_batch = "libtame", None

    def __init__(self, artifact: Artifact, window: tuple[int, int] = (0, 0)) -> None:
        self.inputs, self.outputs = artifact.manifest.inputs, artifact.manifest.outputs
        self._classes = artifact.manifest.classes
        self._library = ctypes.CDLL(str(next(built().rglob("libtame.so"))))
        self._library.tame_last_error.restype = c_char_p
        self._explainer, self._is_open = c_void_p(), False
        options = _Options(
            backend=b"onnxruntime", threads=1, window_low=window[0], window_high=window[1]
        )
        path = str(artifact.path).encode()
        self._call("tame_open", path, byref(options), byref(self._explainer))
        self._is_open = True

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        check_feeds(self.inputs, feeds)
        images = np.ascontiguousarray(feeds["images"])
        own, versus = decode_contrast(feeds["class_ids"], self._classes)
        if (versus == versus.flat[0]).all():
            return self._run(images, own, int(versus.flat[0]))
        # A request has one other class: what asks for several is asked in parts.
        parts = [
            [
                self._run(images[[row]], own[[row], place : place + 1], int(other))
                for place, other in enumerate(others)
            ]
            for row, others in enumerate(versus)
        ]
        found = {
            name: np.concatenate(
                [np.concatenate([one[name] for one in row], axis=1) for row in parts]
            )
            for name in ("explained", "maps")
        }
        return found | {"logits": np.concatenate([row[0]["logits"] for row in parts])}

    def _run(self, images: NDArray[Any], own: NDArray[Any], other: int) -> dict[str, NDArray[Any]]:
        class_ids = np.ascontiguousarray(own)
        request = _Request(
            class_ids=class_ids.ctypes.data_as(POINTER(c_int64)),
            class_count=class_ids.shape[1],
            class_rows=len(class_ids),
        )
        if other != ALONE:
            request.versus = ctypes.pointer(c_int64(other))
        explanation = c_void_p()
        self._call(
            "tame_explain_prepared", self._explainer,
            c_void_p(images.ctypes.data), c_size_t(images.nbytes), c_size_t(len(images)),
            byref(request), byref(explanation),
        )  # fmt: skip
        try:
            view = _View()
            self._call("tame_explanation_view", explanation, byref(view))
            return _arrays(view)
        finally:
            self._call("tame_explanation_free", explanation)

    def explain(self, source: bytes | NDArray[Any]) -> tuple[dict[str, NDArray[Any]], Any]:
        """Return the outputs for a file, or for channels (H, W, C), and its first overlay."""
        image, _data = _image_of(source)
        explanation, view = c_void_p(), _View()
        self._call("tame_explain", self._explainer, byref(image), c_size_t(1), None,
                   byref(explanation))  # fmt: skip
        try:
            self._call("tame_explanation_view", explanation, byref(view))
            width, height = c_int32(), c_int32()
            self._call("tame_image_size", byref(image), byref(width), byref(height))
            drawn = np.zeros((height.value, width.value, 3), np.uint8)
            self._call(
                "tame_overlay", self._explainer, byref(image), explanation, c_size_t(0),
                c_size_t(0), c_float(0.75), c_void_p(drawn.ctypes.data), c_size_t(drawn.nbytes),
                c_size_t(0),
            )  # fmt: skip
            return _arrays(view), drawn
        finally:
            self._call("tame_explanation_free", explanation)

    def close(self) -> None:
        if self._is_open:
            self._call("tame_close", self._explainer)
            self._is_open = False

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            message = self._library.tame_last_error().decode()
            refused = status == _INPUT_ERROR and self._is_open
            raise (errors.InputError if refused else errors.BackendError)(message)


def _image_of(source: bytes | NDArray[Any]) -> tuple[_Image, Any]:
    """Return a picture's description, and the memory that it is about."""
    if isinstance(source, bytes):
        file = np.frombuffer(source, np.uint8)
        return _Image(data=file.ctypes.data, size=file.nbytes), file
    levels = np.ascontiguousarray(source)
    height, width, channels = levels.shape
    kind = 12 if levels.dtype == np.uint8 else 13
    found = _Image(format=kind, width=width, height=height, channels=channels)
    found.data = levels.ctypes.data
    return found, levels


def _arrays(view: _View) -> dict[str, NDArray[Any]]:
    """Return copies of what a view shows."""
    count, places = view.count, view.explained
    shapes = {
        "logits": (count, view.classes),
        "class_ids": (count, places),
        "versus_ids": (count, places),
        "maps": (count, places, view.map_height, view.map_width),
    }
    found = {
        name: np.ctypeslib.as_array(getattr(view, name), shape).copy()
        for name, shape in shapes.items()
    }
    explained = encode_contrast(found["class_ids"], found["versus_ids"], view.classes)
    return {"logits": found["logits"], "explained": explained, "maps": found["maps"]}
