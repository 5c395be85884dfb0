"""How true a quantized graph is on other processors than the one at hand."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import onnx

from tame_deploy.artifact.arithmetic import ArithmeticReport, Figures
from tame_deploy.calibration.arithmetic.integer_layers import integer_layers, overflowing_layers
from tame_deploy.calibration.arithmetic.reference import ReferenceBackend
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.report.quantization_record import Comparison
from tame_deploy.calibration.search.plan import Score
from tame_deploy.calibration.search.trials import scored
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.metrics.fidelity import Floor

__all__ = ["judge_arithmetic", "shortfalls_elsewhere"]

#: How many pictures saturating arithmetic is computed for; it is slow.
_FEW = 16


def judge_arithmetic(comparison: Comparison, model: onnx.ModelProto) -> ArithmeticReport:
    """Return how true a graph for CPUs is in exact arithmetic, and where sums saturate.

    If the weights prove that no pair can, what was found on this processor holds for all. Else
    float32's arithmetic on the codes gives the exact figures (it rounds only sums that are no
    matter), and what saturation takes off them is measured on few pictures.

    Args:
        comparison: of the graph with float32, on this processor.
        model: the graph.

    Raises:
        BackendError: if the graph gives NaN or infinity.
    """
    layers, saturating = len(integer_layers(Graph(model))), tuple(overflowing_layers(model))
    expected = comparison.float32.predictions
    if not saturating:
        here = _figures(scored(expected, comparison.quantized.predictions))
        return ArithmeticReport(
            layers=layers, may_saturate=(), pictures=0, exact=here, saturating=here
        )
    few = _first(comparison.pictures, _FEW)
    rows = np.arange(len(few.pixels))
    found = comparison.pictures.predict_graph(
        model.SerializeToString(), expected.class_ids, integer_kernels=False
    )
    manifest = few.manifest
    with ReferenceBackend(model, manifest.inputs, manifest.outputs, "saturating") as backend:
        spoiled = few.predict(backend, expected.class_ids[rows])
    exact = _figures(scored(expected, found))
    before, after = (
        _figures(scored(expected.rows(rows), one)) for one in (found.rows(rows), spoiled)
    )
    return ArithmeticReport(
        layers=layers,
        may_saturate=saturating,
        pictures=len(rows),
        exact=exact,
        saturating=Figures(
            top1=exact.top1 + after.top1 - before.top1,
            iou15=exact.iou15 + after.iou15 - before.iou15,
            pearson5=exact.pearson5 + after.pearson5 - before.pearson5,
        ),
    )


def shortfalls_elsewhere(found: ArithmeticReport, floor: Floor, *, portable: bool) -> list[str]:
    """Return what is below the floor on other processors, in words.

    Args:
        found: how true the graph is there.
        floor: that it is held to.
        portable: whether the graph is for processors without VNNI as well.
    """
    kinds = {"in exact arithmetic": found.exact}
    if portable:
        kinds["on processors without VNNI, whose sums saturate"] = found.saturating
    return [
        f"{shortfall} {where}"
        for where, figures in kinds.items()
        for shortfall in floor.shortfalls_of(asdict(figures))
    ]


def _first(pictures: EvaluationSet, count: int) -> EvaluationSet:
    return replace(
        pictures,
        pixels=pictures.pixels[:count],
        names=pictures.names[:count],
        labels=pictures.labels[:count],
    )


def _figures(score: Score) -> Figures:
    return Figures(top1=score.top1, iou15=score.iou15, pearson5=score.pearson5)
