"""What a model takes and gives over the network: checks before the queue, metadata, configuration.

To the graph's own tensors come two: `image`, encoded pictures in place of `images`, and `overlay`,
PNG pictures of the maps, which are drawn only for who asks for them by name.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import InputError
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.messages import InferRequest, InputTensor, RequestedOutput
from tame_deploy.serving.strict_json import JsonBounds
from tame_deploy.serving.tensors import datatype_of

__all__ = ["MOST_CLASSES", "MOST_OVERLAYS", "OVERLAY", "VERSION", "CheckedRequest", "Contract"]

VERSION = "1"
#: Classes that one request may have explained in each of its pictures.
MOST_CLASSES = 100
#: Pictures that are drawn for one request.
MOST_OVERLAYS = 32
#: The output that is drawn, not computed.
OVERLAY = "overlay"


@dataclass(frozen=True, kw_only=True)
class CheckedRequest:
    """A request that the model can answer.

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
    outputs: tuple[RequestedOutput, ...]

    @property
    def draws(self) -> bool:
        """Whether overlays are among its outputs."""
        return any(output.name == OVERLAY for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class _Port:
    """A tensor as metadata and configuration describe it; `dims` are without the batch."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


class Contract:
    """What one artifact can be asked by requests of at most `max_batch` pictures."""

    def __init__(self, name: str, explainer: Explainer, max_batch: int) -> None:
        manifest = explainer.artifact.manifest
        self.name, self.max_batch = name, max_batch
        self._manifest, self._labels = manifest, explainer.labels
        self._backend, self._predictor = explainer.backend.name, explainer.predictor
        self._specs = {spec.name: spec for spec in manifest.inputs}
        selectable = "class_ids" in self._specs
        self._images_port = images = _port(self._specs["images"])
        picked = (
            [_Port(name="class_ids", datatype="INT64", dims=(-1,), optional=True)]
            if selectable
            else []
        )
        files = _Port(name="image", datatype="BYTES", dims=(1,), optional=True)
        self._inputs = (images, *picked, files)
        self._own = tuple(spec.name for spec in manifest.outputs)
        overlay = _Port(name=OVERLAY, datatype="BYTES", dims=(-1,))
        self._outputs = (*map(_port, manifest.outputs), overlay)
        sizes = list(itertools.accumulate((max_batch, *images.dims), operator.mul))
        self.json_bounds = JsonBounds(values=sizes[-1], lists=sum(sizes[:-1]))

    def check(self, request: InferRequest) -> CheckedRequest:
        """Check a request against the model.

        Raises:
            RequestError: for tensors that are unknown, missing, or not of this model's kind.
        """
        given = self._inputs_of(request)
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
        checked = CheckedRequest(
            rows=rows,
            images=images,
            files=files,
            class_ids=class_ids,
            outputs=self._outputs_of(request),
        )
        self.check_overlays(checked)
        return checked

    def _inputs_of(self, request: InferRequest) -> dict[str, InputTensor]:
        """Return a request's inputs by name: `images` or `image`, and `class_ids` if it is said."""
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
        return given

    def check_overlays(self, request: CheckedRequest) -> None:
        """Check that the overlays that a request names can be drawn, and are not too many.

        Raises:
            RequestError: if not.
        """
        if not request.draws:
            return
        images, ids = request.images, request.class_ids
        if images is not None and images.dtype.kind == "f":
            raise RequestError("overlay needs pictures as image; images are normalised numbers")
        explain = self._manifest.graph
        always = self._manifest.classes if explain.explain == "all" else explain.ranks
        drawn = request.rows * (always if ids is None else ids.shape[1])
        if drawn > MOST_OVERLAYS:
            raise RequestError(
                f"{drawn} overlays are asked for; expected at most {MOST_OVERLAYS} a request"
            )

    def _images(self, tensor: InputTensor) -> NDArray[Any]:
        port, array = self._images_port, tensor.array
        if tensor.datatype != port.datatype or array.shape[1:] != port.dims or not array.ndim:
            raise RequestError(
                f"found images {tensor.datatype} {list(array.shape)}; expected "
                f"{port.datatype} {[-1, *port.dims]}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
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
        """Return which classes to explain, int64 (rows, K); the likeliest where nothing is said.

        Raises:
            RequestError: for classes that this model cannot explain.
        """
        if tensor is None:
            return self._predictor.class_ids(rows)
        ids = tensor.array
        if tensor.datatype != "INT64" or ids.ndim != 2 or len(ids) != rows:
            raise RequestError(
                f"found class_ids {tensor.datatype} {list(ids.shape)}; expected INT64 [{rows}, -1]"
            )
        if not 1 <= ids.shape[1] <= MOST_CLASSES:
            raise RequestError(
                f"found {ids.shape[1]} classes a picture; expected 1 to {MOST_CLASSES}"
            )
        try:
            return self._predictor.questions(rows, ids)
        except InputError as error:
            raise RequestError(f"model {self.name!r}: {error}") from None

    def _outputs_of(self, request: InferRequest) -> tuple[RequestedOutput, ...]:
        """Return the outputs that a request names, or the graph's own where it names none."""
        for output in request.outputs:
            if output.name not in (*self._own, OVERLAY):
                raise RequestError(
                    f"unexpected output {output.name!r} for model {self.name!r}; expected "
                    f"{', '.join((*self._own, OVERLAY))}"
                )
            if output.classes and output.name != "logits":
                raise RequestError(f"classification is of logits, not of {output.name!r}")
            if not 0 <= output.classes <= self._manifest.classes:
                raise RequestError(
                    f"classification is {output.classes}; expected 1 to {self._manifest.classes}"
                )
        return request.outputs or tuple(RequestedOutput(name) for name in self._own)

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

    def config(self, instances: int, max_queue_delay_us: int) -> dict[str, Any]:
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
            "dynamic_batching": {"max_queue_delay_microseconds": max_queue_delay_us},
            "parameters": {
                key: {"string_value": value} for key, value in self._description().items()
            },
        }

    def _description(self) -> dict[str, str]:
        manifest = self._manifest
        return {
            "backbone": manifest.backbone,
            "precision": manifest.precision,
            "task": manifest.task,
            "manifest": _without_paths(manifest),
            "labels": "\n".join(self._labels),
            **({"speed_only": "random weights"} if manifest.speed_only else {}),
        }


def _without_paths(manifest: Manifest) -> str:
    """Return a manifest for others to read; where its weights were is nobody's business."""
    weights = {
        part: replace(one, source=one.source.replace("\\", "/").rpartition("/")[2])
        for part, one in manifest.weights.items()
    }
    return replace(manifest, weights=weights).with_identity().to_json()


def _port(spec: TensorSpec) -> _Port:
    dims = tuple(size if isinstance(size, int) else -1 for size in spec.shape[1:])
    return _Port(name=spec.name, datatype=datatype_of(spec.dtype), dims=dims)
