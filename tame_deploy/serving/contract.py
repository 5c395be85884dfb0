"""What a model takes and gives over the network: checks before the queue, metadata, configuration.

To the graph's own tensors come two: `image`, encoded pictures in place of `images`, and `overlay`,
PNG pictures of the maps, which are drawn only for who asks for them by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.messages import InferRequest, InputTensor, WantedOutput
from tame_deploy.serving.tensors import datatype_of

__all__ = ["MOST_CLASSES", "MOST_OVERLAYS", "VERSION", "Contract", "Question"]

VERSION = "1"
#: Classes that one request may have explained in each of its pictures.
MOST_CLASSES = 100
#: Pictures that are drawn for one request.
MOST_OVERLAYS = 32
_DRAWN = "overlay"


@dataclass(frozen=True)
class Question:
    """A request that was checked.

    Attributes:
        rows: how many pictures, B.
        images: the graph's input (B, …), or None where `files` are to be decoded first.
        files: B encoded pictures, or none.
        class_ids: int64 (B, K), or None for a graph that takes none.
        outputs: what to answer with.
    """

    rows: int
    images: NDArray[Any] | None
    files: tuple[bytes, ...]
    class_ids: NDArray[np.int64] | None
    outputs: tuple[WantedOutput, ...]

    @property
    def draws(self) -> bool:
        """Whether pictures of the maps are asked for."""
        return any(wanted.name == _DRAWN for wanted in self.outputs)


@dataclass(frozen=True)
class _Port:
    """A tensor as metadata and configuration describe it; `dims` are without the batch."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


class Contract:
    """What one artifact can be asked by requests of at most `max_batch` pictures."""

    def __init__(self, name: str, artifact: Artifact, max_batch: int, backend: str) -> None:
        manifest = artifact.manifest
        self.name, self.max_batch, self._backend = name, max_batch, backend
        self._manifest, self._labels = manifest, artifact.read_labels()
        self._specs = {spec.name: spec for spec in manifest.inputs}
        selectable = "class_ids" in self._specs
        images = _port(self._specs["images"])
        picked = [_Port("class_ids", "INT64", (-1,), optional=True)] if selectable else []
        files = _Port("image", "BYTES", (1,), optional=True)
        self._inputs = (images, *picked, files)
        self._own = tuple(spec.name for spec in manifest.outputs)
        self._outputs = (*map(_port, manifest.outputs), _Port(_DRAWN, "BYTES", (-1,)))

    def read(self, request: InferRequest) -> Question:
        """Check a request against the model.

        Raises:
            RequestError: for tensors that are unknown, missing, or not of this model's kind.
        """
        given = {tensor.name: tensor for tensor in request.inputs}
        known = [port.name for port in self._inputs]
        for name in given:
            if name not in known:
                raise RequestError(
                    f"unexpected input {name!r} for model {self.name!r}; expected "
                    f"images or image{' and class_ids' if 'class_ids' in known else ''}"
                )
        if ("images" in given) == ("image" in given):
            found = "both images and image" if "image" in given else "neither images nor image"
            raise RequestError(f"found {found} for model {self.name!r}; expected one of them")
        files: tuple[bytes, ...] = ()
        images = None
        if "image" in given:
            files = self._files(given["image"])
        else:
            images = self._images(given["images"])
        rows = len(files) if images is None else len(images)
        if not 1 <= rows <= self.max_batch:
            raise RequestError(
                f"found {rows} pictures; model {self.name!r} takes 1 to {self.max_batch} a request"
            )
        class_ids = self.class_ids(given.get("class_ids"), rows)
        return self.checked(Question(rows, images, files, class_ids, self._wanted(request.outputs)))

    def checked(self, question: Question) -> Question:
        """Check that what a question would have drawn can be, and is not too much.

        Raises:
            RequestError: if not.
        """
        if not question.draws:
            return question
        images, ids = question.images, question.class_ids
        if images is not None and images.dtype != np.uint8:
            raise RequestError("overlay needs pictures as image; images are normalised numbers")
        explain = self._manifest.graph
        always = self._manifest.classes if explain.explain == "all" else explain.ranks
        drawn = question.rows * (always if ids is None else ids.shape[1])
        if drawn > MOST_OVERLAYS:
            raise RequestError(
                f"{drawn} overlays are asked for; expected at most {MOST_OVERLAYS} a request"
            )
        return question

    def _images(self, tensor: InputTensor) -> NDArray[Any]:
        spec = self._specs["images"]
        array = tensor.array
        fits = tensor.datatype == datatype_of(spec.dtype) and array.ndim == len(spec.shape)
        if not fits or array.shape[1:] != tuple(spec.shape[1:]):
            raise RequestError(
                f"found images {tensor.datatype} {list(array.shape)}; expected "
                f"{datatype_of(spec.dtype)} {[-1, *spec.shape[1:]]}"
            )
        if array.dtype.kind == "f" and not _finite(array):
            raise RequestError("images has values that are NaN or infinite")
        return array

    def _files(self, tensor: InputTensor) -> tuple[bytes, ...]:
        shape = tensor.array.shape
        if tensor.datatype != "BYTES" or len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
            raise RequestError(
                f"found image {tensor.datatype} {list(shape)}; expected BYTES [-1] or [-1, 1]"
            )
        return tuple(tensor.array.ravel())

    def class_ids(self, tensor: InputTensor | None, rows: int) -> NDArray[np.int64] | None:
        """Return which classes to explain; the likeliest where nothing is said.

        Raises:
            RequestError: for classes that this model cannot explain.
        """
        if "class_ids" not in self._specs:
            if tensor is not None:
                raise RequestError(
                    f"model {self.name!r} explains the same classes always: "
                    f"{self._manifest.graph.explain}"
                )
            return None
        if tensor is None:
            return np.full((rows, 1), -1, np.int64)
        ids = tensor.array
        if tensor.datatype != "INT64" or ids.ndim != 2 or len(ids) != rows:
            raise RequestError(
                f"found class_ids {tensor.datatype} {list(ids.shape)}; expected INT64 [{rows}, -1]"
            )
        if not 1 <= ids.shape[1] <= MOST_CLASSES:
            raise RequestError(
                f"found {ids.shape[1]} classes a picture; expected 1 to {MOST_CLASSES}"
            )
        return self._in_range(ids)

    def _in_range(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        classes, ranks = self._manifest.classes, self._manifest.graph.ranks
        wrong = ids[(ids < -1) | (ids >= classes)]
        if wrong.size:
            raise RequestError(f"class id {wrong[0]} is no class; expected -1 to {classes - 1}")
        if (ids[:, ranks:] == -1).any():
            raise RequestError(
                f"-1 stands in place {ranks + 1} or later; {ranks} classes have a rank"
            )
        return ids

    def _wanted(self, outputs: tuple[WantedOutput, ...]) -> tuple[WantedOutput, ...]:
        for wanted in outputs:
            if wanted.name not in (*self._own, _DRAWN):
                raise RequestError(
                    f"unexpected output {wanted.name!r} for model {self.name!r}; expected "
                    f"{', '.join((*self._own, _DRAWN))}"
                )
            if wanted.classes and wanted.name != "logits":
                raise RequestError(f"classification is of logits, not of {wanted.name!r}")
            if not 0 <= wanted.classes <= self._manifest.classes:
                raise RequestError(
                    f"classification is {wanted.classes}; expected 1 to {self._manifest.classes}"
                )
        return outputs or tuple(WantedOutput(name) for name in self._own)

    def metadata(self) -> dict[str, Any]:
        """Return the answer to a metadata request; -1 is a size that may vary."""

        def shown(port: _Port) -> dict[str, Any]:
            return {"name": port.name, "datatype": port.datatype, "shape": [-1, *port.dims]}

        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "tame-deploy",
            "inputs": [shown(port) for port in self._inputs],
            "outputs": [shown(port) for port in self._outputs],
        }

    def config(self, instances: int, window_us: int) -> dict[str, Any]:
        """Return Triton's ModelConfig as far as it means something here."""

        def shown(port: _Port) -> dict[str, Any]:
            kind = "STRING" if port.datatype == "BYTES" else port.datatype
            return {"name": port.name, "data_type": f"TYPE_{kind}", "dims": list(port.dims)}

        inputs = [{**shown(port), "optional": port.optional} for port in self._inputs]
        outputs = [shown(port) for port in self._outputs]
        outputs[0]["label_filename"] = self._manifest.labels
        return {
            "name": self.name,
            "platform": "tame-deploy",
            "backend": self._backend,
            "max_batch_size": self.max_batch,
            "input": inputs,
            "output": outputs,
            "instance_group": [{"name": self.name, "count": instances, "kind": "KIND_AUTO"}],
            "dynamic_batching": {"max_queue_delay_microseconds": window_us},
            "parameters": {
                key: {"string_value": value} for key, value in self._description().items()
            },
        }

    def _description(self) -> dict[str, str]:
        manifest = self._manifest
        return {
            "backbone": manifest.backbone,
            "precision": manifest.precision,
            "manifest": _without_paths(manifest),
            "labels": "\n".join(self._labels),
            **({"speed_only": "random weights"} if manifest.speed_only else {}),
        }


def _finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; their sum tells at once, unless it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _without_paths(manifest: Manifest) -> str:
    """Return a manifest for others to read; where its weights were is nobody's business."""
    weights = {
        part: replace(one, source=one.source.replace("\\", "/").rpartition("/")[2])
        for part, one in manifest.weights.items()
    }
    return replace(manifest, weights=weights).with_identity().to_json()


def _port(spec: TensorSpec) -> _Port:
    dims = tuple(size if isinstance(size, int) else -1 for size in spec.shape[1:])
    return _Port(spec.name, datatype_of(spec.dtype), dims)
