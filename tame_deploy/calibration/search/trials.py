"""Trying plans: each is built as the graph that would be deployed, run, and held to float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from tame_deploy.artifact.task import agreement
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.moments import input_moments
from tame_deploy.calibration.observing.record import Calibration
from tame_deploy.calibration.passes.bias_correction import bias_shifts, correct_biases
from tame_deploy.calibration.passes.equalization import equalize
from tame_deploy.calibration.passes.half import QDQ_HALF_OPSET, at_least_opset, halve
from tame_deploy.calibration.passes.pixels import PIXELS, fold_pixels, pixel_means
from tame_deploy.calibration.passes.placement import Placement, Target, quantize_graph
from tame_deploy.calibration.passes.rounding import RoundedLayer, round_layer, with_rounded
from tame_deploy.calibration.search.plan import HOPELESS, Plan, Score
from tame_deploy.errors import BackendError
from tame_deploy.metrics.evaluation_set import EvaluationSet, NormalisedPredictions
from tame_deploy.metrics.similarity import correlations, overlaps, squared_error

__all__ = ["Examples", "Trials", "scored"]


@dataclass(frozen=True)
class Examples:
    """Pictures to score by, and what float32 predicts for them."""

    pictures: EvaluationSet
    reference: NormalisedPredictions


class Trials:
    """Builds and scores plans; what was made for one is kept for the next.

    Args:
        graph: in float32, as it was exported.
        calibrate: returns what the activations of a graph span.
        few: the pictures that compare trials.
        many: the pictures that a plan is held to the floor on.
    """

    def __init__(
        self,
        graph: Graph,
        calibrate: Callable[[Graph], Calibration],
        few: Examples,
        many: Examples,
    ) -> None:
        self.graph = graph
        self._calibrate = calibrate
        self._few, self._many = few, many
        self._equalized: dict[float | None, tuple[Graph, Calibration]] = {}
        self._shifts: dict[tuple[float | None, bool], dict[str, NDArray[np.float64]]] = {}
        self._rounded: dict[tuple[float | None, Target], dict[str, RoundedLayer]] = {}
        self._scores: dict[Plan, Score] = {}
        self._validated: dict[Plan, Score] = {}

    def equalized(self, strength: float | None) -> tuple[Graph, Calibration]:
        """Return the graph equalized by a strength, and its calibration.

        Raises:
            InputError: if the graph cannot be calibrated.
        """
        if strength not in self._equalized:
            graph: Graph | None = self.graph
            if strength is not None:
                tensors = self.equalized(None)[1].tensors
                peaks = {name: tensor.channel_peaks for name, tensor in tensors.items()}
                graph = equalize(self.graph, peaks, strength)
            self._equalized[strength] = (
                self._equalized[None] if graph is None else (graph, self._calibrate(graph))
            )
        return self._equalized[strength]

    def can_equalize(self) -> bool:
        """Whether any channel can be rescaled."""
        return self.equalized(0.5)[0] is not self.equalized(None)[0]

    def build(self, plan: Plan) -> onnx.ModelProto:
        """Return a plan's model.

        Raises:
            BuildError: if it cannot be built.
        """
        if plan.precision == "fp16":
            return halve(self.graph)
        graph, calibration = self.equalized(plan.strength)
        ranges = calibration.ranges(plan.method)
        for name, method in plan.exceptions:
            ranges[name] = calibration.tensors[name].ranges[method]
        if plan.target != "tensorrt" and (folded := fold_pixels(graph)) is not None:
            graph, ranges = folded[0], {**ranges, PIXELS: folded[1]}
        rounded = self._rounded_layers(graph, plan) if plan.rounded else {}
        if plan.corrected:
            shifts = self._bias_shifts(graph, plan)
            graph = correct_biases(graph, shifts, plan.excluded | rounded.keys())
        graph = with_rounded(graph, rounded, plan.excluded)
        mixed = plan.precision == "int8+fp16"
        if mixed:
            graph = at_least_opset(graph, QDQ_HALF_OPSET)
        steps = {name: layer.steps for name, layer in rounded.items()}
        model = quantize_graph(graph, Placement(plan.target, ranges, plan.excluded, steps))
        if not mixed:
            return model
        return halve(Graph(onnx.shape_inference.infer_shapes(model, data_prop=True)))

    def _bias_shifts(self, graph: Graph, plan: Plan) -> dict[str, NDArray[np.float64]]:
        """Return the shifts of a graph that is equalized, or that with its pixels folded."""
        key = (plan.strength, plan.target == "cpu")
        if key not in self._shifts:
            unfolded, calibration = self.equalized(plan.strength)
            means = {name: seen.channel_means for name, seen in calibration.tensors.items()}
            colours = pixel_means(unfolded, means)
            if colours is not None:
                means[PIXELS] = tuple(colours.tolist())
            self._shifts[key] = bias_shifts(graph, means, portable=key[1])
        return self._shifts[key]

    def _rounded_layers(self, graph: Graph, plan: Plan) -> dict[str, RoundedLayer]:
        """Return the layers of a graph that is equalized, or that with its pixels folded."""
        key = (plan.strength, plan.target)
        if key not in self._rounded:
            portable = plan.target == "cpu"
            self._rounded[key] = {
                str(layer.name): found
                for layer, moments in input_moments(graph, self._few.pictures)
                if (found := round_layer(graph, layer, moments, portable=portable)) is not None
            }
        return self._rounded[key]

    def score(self, plan: Plan) -> Score:
        """Return how far a plan is from float32 on few pictures: enough to compare trials.

        Raises:
            BuildError: if it cannot be built.
        """
        if plan not in self._scores:
            self._scores[plan] = self._measure(plan, self._few)
        return self._scores[plan]

    def validate(self, plan: Plan) -> Score:
        """Return how far a plan is from float32 on many pictures: enough to hold it to a floor.

        Raises:
            BuildError: if it cannot be built.
        """
        if plan not in self._validated:
            self._validated[plan] = self._measure(plan, self._many)
        return self._validated[plan]

    def _measure(self, plan: Plan, examples: Examples) -> Score:
        """Return a plan's score; a graph for GPUs owes nothing to this processor's kernels."""
        expected = examples.reference
        try:
            found = examples.pictures.predict_graph(
                self.build(plan).SerializeToString(),
                expected.class_ids,
                integer_kernels=plan.target != "tensorrt",
            )
        except BackendError as error:
            if "NaN" in str(error):
                return HOPELESS
            raise
        return scored(expected, found)

    def excluded_share(self, plan: Plan) -> float:
        """Return which share of the multiply-adds of all layers stays in higher precision."""
        costs = self._costs
        return sum(costs[name] for name in plan.excluded) / max(sum(costs.values()), 1)

    @cached_property
    def _costs(self) -> dict[str, int]:
        return {str(layer.name): self.graph.multiply_adds(layer) for layer in self.graph.layers}


def scored(expected: NormalisedPredictions, found: NormalisedPredictions) -> Score:
    """Return how far predictions are from float32's for the same pictures."""
    same = np.flatnonzero(expected.class_ids == found.class_ids)
    if not len(same):
        return HOPELESS
    top1 = float(agreement(expected.logits, found.logits, expected.task).mean())
    expected, found = expected.rows(same), found.rows(same)
    return Score(
        squared_error(expected, found),
        top1,
        float(overlaps(expected, found, 0.15).mean()),
        float(np.percentile(correlations(expected, found), 5)),
    )
