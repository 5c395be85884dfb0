"""`quantize`: an artifact of lower precision that is held to its float32 parent.

`quantize_artifact` is the order of it: pictures are chosen, activations are observed, plans are
tried, the best one is compared with float32 on held-out pictures, and what reaches the floor is
written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import onnx

from tame_deploy.artifact.arithmetic import ArithmeticReport
from tame_deploy.artifact.directory import Artifact, check_output
from tame_deploy.artifact.manifest import FidelityReport
from tame_deploy.calibration.calibrate import calibration_cache, calibration_inputs
from tame_deploy.calibration.graph import Graph, check_float32, load_graph
from tame_deploy.calibration.observing.choice import (
    Choice,
    PictureSets,
    PicturesToChooseFrom,
    choose_sets,
    evaluation_set,
)
from tame_deploy.calibration.observing.observe import observe
from tame_deploy.calibration.observing.record import (
    Calibration,
    CalibrationInputs,
    read_calibration,
)
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.passes.half import check_activations_fit_half
from tame_deploy.calibration.report.arithmetic import judge_arithmetic, shortfalls_elsewhere
from tame_deploy.calibration.report.quantization_record import Comparison, QuantizationRecord
from tame_deploy.calibration.report.speed import time_against_float32
from tame_deploy.calibration.report.write import write_quantized
from tame_deploy.calibration.search.plan import Plan
from tame_deploy.calibration.search.recovery import RECOVERY_METHODS
from tame_deploy.calibration.search.search_plan import SearchResult, search_plan
from tame_deploy.calibration.search.sensitivity import measure_sensitivity
from tame_deploy.calibration.search.trials import Examples, Trials
from tame_deploy.errors import FidelityError, InputError
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.metrics.faithfulness import assess
from tame_deploy.runtime.backends.vnni import saturates

__all__ = ["Quantized", "quantize_artifact"]

#: Seconds to find out which layers hurt, where the floor was missed and none was excluded.
_BLAME_S = 30.0
#: The batch sizes that are timed.
_BATCHES = (1, 8)
#: How many calibration pictures compare trials.
_FEW = 64


@dataclass(frozen=True)
class Quantized:
    """A quantized artifact, how it came about, and what its user should know besides."""

    artifact: Artifact
    record: QuantizationRecord
    notes: list[str]


@dataclass
class _Quantization:
    """What the steps of one quantization share."""

    artifact: Artifact
    source: PicturesToChooseFrom
    options: QuantizeOptions
    report: Callable[[str], None]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.graph = load_graph(self.artifact)
        self.float32 = self.artifact.model.read_bytes()

    def pictures(self, chosen: Choice) -> EvaluationSet:
        """Return chosen pictures, in memory."""
        return evaluation_set(self.artifact.manifest, self.source, chosen)


def quantize_artifact(
    artifact: Artifact,
    source: PicturesToChooseFrom,
    output: str | os.PathLike[str],
    options: QuantizeOptions,
    *,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Bring an artifact to lower precision, recover what that spoils, and judge the result.

    Args:
        artifact: in float32.
        source: pictures of which some calibrate, some choose the plan, and others are held out.
        output: directory of the new artifact.
        options: precision, target, floor, accuracy recovery.
        overwrite: whether an artifact that is there may be replaced.
        report: told what is being done.

    Raises:
        IncompatibleArtifactError: if the artifact is quantized already.
        InputError: for too few pictures, NaN or infinite activations, kernels that are not here.
        BuildError: if the graph cannot be brought to this precision.
        FidelityError: if the result is below the floor, naming the layers that hurt.
        ArtifactError: if the output exists or cannot be written.
    """
    _check_possible(artifact, options)
    check_output(output, overwrite=overwrite)
    run = _Quantization(artifact, source, options, report)
    sets = _choose_sets(run)
    trials = _trials(run, sets)
    search = _search(run, trials)
    model = trials.build(search.plan)
    comparison = _compare(run, sets.held_out, model)
    arithmetic = _judge_arithmetic(run, comparison, model)
    fidelity = _held_to_floor(run, trials, search, comparison, arithmetic)
    times, speedups = _times(run, trials, search, comparison.pictures, model)
    calibration = trials.equalized(search.plan.strength)[1]
    record = QuantizationRecord(
        search=search,
        comparison=comparison,
        arithmetic=arithmetic,
        fidelity=fidelity,
        held_out=sets.held_out,
        times=times,
        speedups=speedups,
    )
    report("Writing the artifact")
    written = write_quantized(artifact, output, model, calibration, record, overwrite=overwrite)
    return Quantized(written, record, run.notes)


def _check_possible(artifact: Artifact, options: QuantizeOptions) -> None:
    check_float32(artifact)
    if options.target == "cpu-vnni" and saturates():
        raise InputError(
            "cpu-vnni is judged on a processor with VNNI, and this one has none. Quantize where "
            "the artifact will run, or for every processor with --target cpu"
        )


def _choose_sets(run: _Quantization) -> PictureSets:
    run.report("Choosing pictures")
    sets, unreadable = choose_sets(
        run.source,
        calibration_size=run.options.calibration_size,
        held_out_size=run.options.held_out_size,
        min_held_out_size=run.options.min_held_out_size,
        seed=run.options.seed,
    )
    run.notes += [f"not read: {reason}" for reason in unreadable]
    return sets


def _trials(run: _Quantization, sets: PictureSets) -> Trials:
    """Return what tries plans: on few calibration pictures, and on all and the validation set."""
    few = run.pictures(sets.calibration.part(0, _FEW))
    many = run.pictures(sets.calibration.joined(sets.validation))
    run.report("Running the float32 graph")
    examples = [Examples(pictures, pictures.predict_graph(run.float32)) for pictures in (few, many)]
    return Trials(run.graph, lambda graph: _calibrate(run, graph, sets.calibration), *examples)


def _calibrate(run: _Quantization, graph: Graph, chosen: Choice) -> Calibration:
    """Observe a graph's activations, unless the artifact has a record of just that."""
    inputs = calibration_inputs(run.artifact, run.source, chosen, run.options.seed)
    if graph is not run.graph:
        inputs = replace(inputs, model_sha256=graph.sha256())
    elif (kept := _kept_calibration(run, inputs)) is not None:
        return kept
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        run.report(f"Observing activations, {done} of {len(chosen)} pictures")

    advance(0)
    return observe(graph, inputs, run.source, cache=calibration_cache(), advance=advance)


def _kept_calibration(run: _Quantization, inputs: CalibrationInputs) -> Calibration | None:
    record = read_calibration(run.artifact)
    if record is None or record.key == inputs.key:
        return record
    run.notes.append(
        f"{run.artifact.path} was calibrated on other pictures ({record.subject.source}); "
        f"the ranges here are of {len(inputs.pictures)} pictures of {inputs.source}"
    )
    return None


def _search(run: _Quantization, trials: Trials) -> SearchResult:
    """Return the plan to take; one whose activations float16 cannot hold is refused."""
    options = run.options
    plan = Plan(precision=options.precision, target=options.target, method=options.ranges)
    found = search_plan(
        trials,
        plan,
        options.recovery,
        floor=options.floor,
        budget_s=options.budget_s,
        report=run.report,
    )
    if options.precision != "int8":
        check_activations_fit_half(trials.equalized(found.plan.strength)[1].ranges("minmax"))
    return found


def _compare(run: _Quantization, held_out: Choice, model: onnx.ModelProto) -> Comparison:
    run.report("Comparing with float32 on held-out pictures")
    pictures = run.pictures(held_out)
    with pictures.open(run.float32) as backend:
        float32 = assess(pictures, backend)
    # A graph for GPUs owes nothing to the kernels of this processor.
    integer_kernels = run.options.target != "tensorrt"
    with pictures.open(model.SerializeToString(), integer_kernels=integer_kernels) as backend:
        quantized = assess(pictures, backend, float32.predictions.class_ids)
    return Comparison(pictures, float32, quantized)


def _judge_arithmetic(
    run: _Quantization, comparison: Comparison, model: onnx.ModelProto
) -> ArithmeticReport | None:
    if run.options.target == "tensorrt" or run.options.precision != "int8":
        return None
    run.report("Judging it on other processors")
    return judge_arithmetic(comparison, model)


def _held_to_floor(
    run: _Quantization,
    trials: Trials,
    search: SearchResult,
    comparison: Comparison,
    arithmetic: ArithmeticReport | None,
) -> FidelityReport:
    """Return the fidelity, marked if it is below the floor and that is allowed.

    Raises:
        FidelityError: if it is below the floor and that is not allowed.
    """
    options, plan = run.options, search.plan
    fidelity = replace(comparison.fidelity(), floor=asdict(options.floor))
    shortfalls = options.floor.shortfalls(fidelity)
    if arithmetic is not None and not shortfalls:
        portable = options.target == "cpu"
        shortfalls = shortfalls_elsewhere(arithmetic, options.floor, portable=portable)
    if not shortfalls:
        return fidelity
    if options.allow_low_fidelity:
        return replace(fidelity, allowed_below=True)
    hurting = _layers_that_hurt(run, trials, search)
    blame = f" Layers that hurt most: {', '.join(hurting)}." if hurting else ""
    untried = ",".join(name for name in RECOVERY_METHODS if name not in options.recovery)
    more = f" Accuracy recovery not tried: {untried}." if untried and hurting else ""
    searched = "layers" in options.recovery and plan.precision != "fp16"
    longer = "Give the search more time (--budget), a" if searched and not search.hopeless else "A"
    early = f" Stopped early: {search.hopeless}." if search.hopeless else ""
    raise FidelityError(
        f"{plan.precision} for {plan.target} is below the floor on {fidelity.pictures} held-out "
        f"pictures: {'; '.join(shortfalls)}.{early}{blame}{more} Nothing was kept. {longer}sk for "
        "less (--floor), or record that you allow it (--allow-low-fidelity)"
    )


def _layers_that_hurt(run: _Quantization, trials: Trials, search: SearchResult) -> list[str]:
    """Return the names of the quantized layers that add most to the error, the worst first."""
    plan, found = search.plan, search.sensitivities
    if not found and plan.precision != "fp16":
        found = measure_sensitivity(trials, plan, time.monotonic() + _BLAME_S, run.report)
    return [one.name for one in found if one.gain > 0 and not set(one.layers) <= plan.excluded][:5]


def _times(
    run: _Quantization,
    trials: Trials,
    search: SearchResult,
    pictures: EvaluationSet,
    model: onnx.ModelProto,
) -> tuple[dict[str, dict[str, float]], list[float] | None]:
    """Return milliseconds by batch size beside float32's, and the speed of the curve's points.

    Only kernels of this machine are measured: a graph for TensorRT is timed by its engine.
    """
    if run.options.target == "tensorrt":
        return {}, None

    def timed(model: onnx.ModelProto, batch: int) -> dict[str, float]:
        return time_against_float32(pictures, run.float32, model.SerializeToString(), batch)

    run.report("Measuring speed")
    times = {str(batch): timed(model, batch) for batch in _BATCHES}
    if len(search.curve) < 2:
        return times, None
    speedups: list[float] = []
    for point in search.curve:
        run.report(f"Measuring speed of the curve, {len(speedups) + 1} of {len(search.curve)}")
        speedups.append(timed(trials.build(point.plan), 1)["speedup"])
    return times, speedups
