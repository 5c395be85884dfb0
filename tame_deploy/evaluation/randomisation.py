"""Model parameter randomisation, cascading (Adebayo et al., NeurIPS 2018).

A map that tells of a network must change when what the network learnt is gone. So the weights of
the classifier are shuffled from its last layer down to its first, in steps, and each step's maps of
the same classes are compared with those of the network as it was.

Weights are permuted within each tensor, so their mean, deviation and distribution stay. The head
stays as it is, except for class activation maps, whose head is the classifier's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.types import FLAT_RANGE
from tame_deploy.errors import BackendError, IncompatibleArtifactError, InputError
from tame_deploy.evaluation.kept import KeptPictures
from tame_deploy.metrics.evaluated_model import EvaluatedModel
from tame_deploy.metrics.families import RANDOMISATION, Scores
from tame_deploy.metrics.similarity import spearman
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.predict.predictor import Predictor

__all__ = ["DRAWS", "STEPS", "RandomisableGraph"]

#: From the classifier alone to all layers, in about as many steps.
STEPS = 6
#: One draw may turn a map round by luck, so pictures take turns at as many.
DRAWS = 4
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FEW = 16  # values that an operation may have for parameters, such as scales
_NORM_STATISTICS = 3  # inputs of BatchNormalization from here on: no weights, but measured


class RandomisableGraph:
    """A float32 graph whose classifier's weights can be shuffled from the top down.

    Args:
        manifest: the contract of the graph.
        model: the graph; it is not changed.

    Raises:
        InputError: if the graph explains only the classes that it predicts.
    """

    def __init__(self, manifest: Manifest, model: onnx.ModelProto) -> None:
        if manifest.graph.explain == "predicted":
            raise InputError(
                "randomisation compares maps of the same class, and this graph explains only the "
                "classes that it predicts; export with --explain selectable"
            )
        self._manifest = manifest
        self._model = model

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> RandomisableGraph:
        """Read an artifact's graph.

        Raises:
            IncompatibleArtifactError: if it is no float32 artifact.
            InputError: if it is too large, or explains only the classes that it predicts.
        """
        manifest = artifact.manifest
        if manifest.precision != "fp32":
            raise IncompatibleArtifactError(
                f"{artifact.path} is {manifest.precision}, whose weights cannot be randomised; "
                "evaluate the float32 artifact that it was made of "
                f"({', '.join(manifest.parents)}) with --metrics randomisation"
            )
        if f"{artifact.model.name}.data" in manifest.files:
            raise InputError(
                f"{artifact.model} keeps its weights beside it, because they are too large for one "
                "file; only graphs in one file can be randomised so far"
            )
        return cls(manifest, onnx.load(artifact.model))

    @cached_property
    def layers(self) -> list[list[str]]:
        """Names of the weights of each layer, the classifier's first.

        What norms and positions have learnt belongs to the layer before them. An auxiliary network
        is none of the classifier's.
        """
        classifier = _leading_to(self._model.graph, "logits")
        weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        taken: set[str] = set()
        layers: list[list[str]] = []
        for node in self._model.graph.node:
            if not node.name.startswith("backbone/") or node.name not in classifier:
                continue
            weighted = node.op_type in _WEIGHTED
            inputs = list(node.input)
            if node.op_type == "BatchNormalization":
                inputs = inputs[:_NORM_STATISTICS]
            names = [
                name
                for name in dict.fromkeys(inputs)
                if name in weights and name not in taken and _is_learnt(weights[name], weighted)
            ]
            taken.update(names)
            if names and (weighted or not layers):
                layers.append(names)
            elif names:
                layers[-1] += names
        return layers[::-1]

    @cached_property
    def steps(self) -> dict[float, int]:
        """How many layers are randomised at each step, by their share in percent."""
        count = len(self.layers)
        numbers = np.unique(np.rint(np.linspace(1, count, min(STEPS, count))).astype(int))
        return {round(100 * int(number) / count, 1): int(number) for number in numbers}

    def open(self, layers: int, draw: int) -> EvaluatedModel:
        """Open the graph on ONNX Runtime, the weights of its last `layers` layers shuffled.

        Raises:
            BackendError: if it cannot be loaded.
        """
        manifest, model = self._manifest, self.shuffled(layers, draw).SerializeToString()
        backend = OnnxRuntimeBackend(model, manifest.inputs, manifest.outputs, BackendOptions())
        return EvaluatedModel(
            name=manifest.name,
            predictor=Predictor.of(manifest, backend),
            labels=(),
            backbone=manifest.backbone,
        )

    def shuffled(self, layers: int, draw: int) -> onnx.ModelProto:
        """Return the graph with the weights of its last `layers` layers shuffled.

        A layer's weights are the same at every step of a draw, a number that seeds it.
        """
        changed = self._changed(layers, draw)
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in changed:
                tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
        return model

    def _changed(self, layers: int, draw: int) -> dict[str, NDArray[np.float32]]:
        weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        changed: dict[str, NDArray[np.float32]] = {}
        for number, names in enumerate(self.layers[:layers]):
            generator = np.random.default_rng((draw, number))
            for name in names:
                changed[name] = _permuted(numpy_helper.to_array(weights[name]), generator)
        if layers and self._manifest.head.branch == "identity":
            before = {name: numpy_helper.to_array(weights[name]) for name in self.layers[0]}
            for name in (name for name in weights if name.startswith("tail.maps.")):
                rows = numpy_helper.to_array(weights[name])
                changed[name] = _as_classifier(rows, before, changed, draw)
        return changed

    def similarities(
        self, kept: KeptPictures, batch_size: int, advance: Callable[[int], None]
    ) -> Scores:
        """Return Spearman's correlation in percent (N) after each step, and the mean of the steps.

        Args:
            kept: the pictures and what the network as it is says of them.
            batch_size: how many pictures are run at a time.
            advance: told how many more pictures are dealt with.

        Raises:
            BackendError: if a randomised network cannot be run, or gives NaN or infinity.
        """
        scores: Scores = {}
        for percent, layers in self.steps.items():
            values = np.full(len(kept.pixels), np.nan)
            for draw in range(min(DRAWS, len(values))):
                rows = np.arange(draw, len(values), DRAWS)
                with self.open(layers, draw) as model:
                    for part in np.array_split(rows, -(-len(rows) // batch_size)):
                        maps = _maps_of(model, kept, part, percent)
                        values[part] = _similarity(kept.maps[part], maps)
                        advance(len(part))
            scores[f"{RANDOMISATION}_{percent:g}"] = values
        scores[RANDOMISATION] = np.mean(list(scores.values()), axis=0)
        return scores


def _similarity(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Spearman's correlation in percent (N); NaN where a map was flat, 0 where it became so.

    A map that was flat before anything was scrambled cannot show whether it depends on the network.
    """
    low, high = before.min(axis=(1, 2)), before.max(axis=(1, 2))
    flat = high - low <= FLAT_RANGE * np.maximum(np.abs(low), np.abs(high))
    return np.where(flat, np.nan, 100 * spearman(before, after))


def _is_learnt(tensor: onnx.TensorProto, weighted: bool) -> bool:
    """Return whether a constant of the backbone is a weight.

    Where the exporter has computed with weights, as with tables of positions, it leaves constants
    without their names. Attention masks have two values, parameters of operations a few.
    """
    if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims, dtype=int) < 2:
        return False
    if weighted or tensor.name.startswith("backbone."):
        return True
    values = numpy_helper.to_array(tensor)
    return values.size >= _FEW and len(np.unique(values)) > 2


def _permuted(values: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    return generator.permutation(values.ravel()).reshape(values.shape)


def _as_classifier(
    rows: NDArray[np.float32],
    before: Mapping[str, NDArray[np.float32]],
    after: Mapping[str, NDArray[np.float32]],
    draw: int,
) -> NDArray[np.float32]:
    """Return what becomes of a CAM head's weights: the same as of the classifier that they are.

    The classifier may hold them the other way round; of one logit there are two classes, of
    opposite signs. Weights that are found nowhere are permuted on their own.
    """
    for name, values in before.items():
        for was, now in ((values, after[name]), (values.T, after[name].T)):
            if rows.size == was.size and np.array_equal(rows.ravel(), was.ravel()):
                return now.reshape(rows.shape)
            both = np.concatenate([-was.ravel(), was.ravel()])
            if np.array_equal(rows.ravel(), both):
                return np.concatenate([-now.ravel(), now.ravel()]).reshape(rows.shape)
    return _permuted(rows, np.random.default_rng((draw, rows.size)))


def _maps_of(
    model: EvaluatedModel, kept: KeptPictures, rows: NDArray[np.intp], percent: float
) -> NDArray[np.float32]:
    try:
        return model.maps_of(kept.pixels[rows], kept.class_ids[rows])
    except BackendError as error:
        raise BackendError(f"with {percent:g} % of the layers randomised: {error}") from error


def _leading_to(graph: onnx.GraphProto, output: str) -> set[str]:
    """Return the names of the nodes that an output of the graph depends on."""
    makers = {value: node for node in graph.node for value in node.output}
    found: set[str] = set()
    waiting = [output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found
