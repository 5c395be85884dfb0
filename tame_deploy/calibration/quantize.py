"""`quantize`: an artifact of lower precision that is held to its float32 parent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import onnx

from tame_deploy.artifact.directory import Artifact, check_output
from tame_deploy.artifact.manifest import FidelityReport
from tame_deploy.calibration.graph import Graph, load_graph
from tame_deploy.calibration.observing.calibrate import (
    calibration_cache,
    check_float32,
    read_calibration,
    subject_of_choice,
)
from tame_deploy.calibration.observing.choice import (
    Choice,
    PicturesToChooseFrom,
    choose_pictures,
    evaluation_set,
)
from tame_deploy.calibration.observing.observe import observe
from tame_deploy.calibration.observing.record import Calibration, CalibrationSubject
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.passes.half import LARGEST
from tame_deploy.calibration.report.write import Judged, Outcome, write_quantized
from tame_deploy.calibration.search.repair import RepairStep, repair_plan
from tame_deploy.calibration.search.sensitivity import (
    CurvePoint,
    Sensitivity,
    measure_sensitivity,
    search_layers,
)
from tame_deploy.calibration.search.speed import time_models
from tame_deploy.calibration.search.workshop import Examples, Plan, Workshop, model_sha256
from tame_deploy.errors import BuildError, FidelityError
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.metrics.faithfulness import assess, fidelity_report

__all__ = ["Quantized", "quantize_artifact"]

#: Seconds to find out what hurts, where the floor was missed and nothing was searched.
_BLAME_S = 60.0
_BATCHES = (1, 8)
#: How many calibration pictures compare trials.
_FEW = 64


@dataclass(frozen=True)
class Quantized:
    """A quantized artifact and how it came about."""

    artifact: Artifact
    outcome: Outcome
    notes: list[str] = field(default_factory=list)


@dataclass
class _Run:
    """What the steps of one quantization share."""

    artifact: Artifact
    source: PicturesToChooseFrom
    options: QuantizeOptions
    report: Callable[[str], None]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.graph = load_graph(self.artifact)
        self.original = self.artifact.model.read_bytes()

    def choose(self) -> tuple[Choice, Choice, Choice]:
        """Return the pictures that calibrate, some that help to choose a plan, and the judges."""
        options = self.options
        self.report("Choosing pictures")
        own, unreadable = choose_pictures(self.source, options.count, options.seed)
        rest, more = choose_pictures(
            self.source,
            options.judged + options.count,
            options.seed,
            least=options.least_judged,
            beside=own,
        )
        self.notes += [f"not read: {reason}" for reason in [*unreadable, *more]]
        helping = min(options.count, (len(rest) - options.least_judged) // 3)
        judges = rest.part(helping, helping + options.judged)
        return own, rest.part(0, helping), judges

    def calibration(self, graph: Graph, chosen: Choice) -> Calibration:
        """Watch a graph; the artifact's own record is taken if it is of the same."""
        subject = subject_of_choice(self.artifact, self.source, chosen, self.options.seed)
        if graph is not self.graph:
            subject = replace(subject, model_sha256=model_sha256(graph))
        elif (kept := self._kept_record(subject)) is not None:
            return kept
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.report(f"Watching activations, {done} of {len(chosen)} pictures")

        advance(0)
        inputs = self.artifact.manifest.inputs
        return observe(
            graph, subject, self.source, inputs, cache=calibration_cache(), advance=advance
        )

    def _kept_record(self, subject: CalibrationSubject) -> Calibration | None:
        record = read_calibration(self.artifact)
        if record is None or record.key == subject.key:
            return record
        self.notes.append(
            f"{self.artifact.path} was calibrated on other pictures ({record.subject.source}); "
            f"the ranges here are of {len(subject.pictures)} pictures of {subject.source}"
        )
        return None

    def evaluation_set(self, chosen: Choice) -> EvaluationSet:
        """Return pictures to evaluate graphs on, in memory."""
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
    """Bring an artifact to lower precision, repair what that spoils, and judge the result.

    Ranges and repairs see the calibration pictures, the choice of a plan some more; fidelity is
    measured on others.

    Args:
        artifact: in float32.
        source: pictures to calibrate and to judge with.
        output: directory of the new artifact.
        options: precision, target, floor, repairs.
        overwrite: whether an artifact that is there may be replaced.
        report: told what is being done.

    Raises:
        IncompatibleArtifactError: if the artifact is quantized already.
        InputError: if there are not enough pictures, or activations are NaN or infinite.
        BuildError: if the graph cannot be brought to this precision.
        FidelityError: if the result is below the floor, naming the layers that hurt.
        ArtifactError: if the output exists or cannot be written.
    """
    check_float32(artifact)
    check_output(output, overwrite=overwrite)
    run = _Run(artifact, source, options, report)
    own, helping, judges = run.choose()
    workshop = _workshop(run, own, helping)
    deadline = time.monotonic() + options.budget_s
    plan, steps = _repaired(run, workshop, deadline)
    curve, sensitivities, chosen = _searched(run, workshop, plan, deadline)
    plan = curve[chosen].plan
    _scan_overflow(workshop, plan)
    model = workshop.build(plan)
    shown = _judged(run, judges, model)
    fidelity = replace(fidelity_report(*shown), floor=asdict(options.floor))
    fidelity = _held_to_floor(run, workshop, plan, fidelity, sensitivities)
    times = _timed(run, workshop, shown[0], model, curve)
    share = workshop.kept_share(plan)
    outcome = Outcome(plan, share, steps, curve, chosen, sensitivities, *times, fidelity, judges)
    calibration = workshop.prepared(plan.strength)[1]
    report("Writing the artifact")
    written = write_quantized(artifact, output, model, calibration, outcome, shown, overwrite)
    return Quantized(written, outcome, run.notes)


def _judged(run: _Run, judges: Choice, model: onnx.ModelProto) -> Judged:
    """Return what float32 and the model say of the judging pictures."""
    run.report("Judging on held-out pictures")
    pictures = run.evaluation_set(judges)
    with pictures.open(run.original) as backend:
        float32 = assess(pictures, backend)
    with pictures.open(model.SerializeToString()) as backend:
        found = assess(pictures, backend, float32.predictions.class_ids)
    return pictures, float32, found


def _workshop(run: _Run, own: Choice, helping: Choice) -> Workshop:
    few = run.evaluation_set(own.part(0, _FEW))
    many = run.evaluation_set(own.joined(helping))
    run.report("Asking the float32 graph")
    examples = [
        Examples(pictures, pictures.predict_graph(run.original)) for pictures in (few, many)
    ]
    return Workshop(run.graph, lambda graph: run.calibration(graph, own), *examples)


def _repaired(run: _Run, workshop: Workshop, deadline: float) -> tuple[Plan, list[RepairStep]]:
    options = run.options
    plan = Plan(options.precision, options.target, options.ranges)
    if options.precision == "fp16":
        return plan, [RepairStep("plain", workshop.confirm(plan), True, 0.0)]
    run.report("Quantizing")
    half = deadline - options.budget_s / 2
    return repair_plan(workshop, plan, options.repairs, deadline=half, report=run.report)


def _scan_overflow(workshop: Workshop, plan: Plan) -> None:
    """Refuse float16 where an activation would become infinite on the way."""
    if plan.precision == "int8":
        return
    for name, (low, high) in workshop.prepared(plan.strength)[1].ranges("minmax").items():
        if max(-low, high) > LARGEST:
            raise BuildError(
                f"the activation {name} reaches {max(-low, high):.4g}, more than float16 holds "
                f"({LARGEST:g}). Keep fp32, or use --precision int8"
            )


def _searched(
    run: _Run, workshop: Workshop, plan: Plan, deadline: float
) -> tuple[list[CurvePoint], list[Sensitivity], int]:
    """Return the curve, what layers do to it, and the first point that reaches the floor.

    Where none does, the one nearest to float32 is taken, and judged.
    """
    start = CurvePoint(plan, workshop.confirm(plan), 0.0)
    if "layers" not in run.options.repairs or plan.precision == "fp16":
        return [start], [], 0
    curve, found = search_layers(
        workshop, plan, run.options.floor, deadline=deadline, advance=run.report
    )
    reaching = [i for i, point in enumerate(curve) if point.score.reaches(run.options.floor)]
    errors = [point.score.error for point in curve]
    return curve, found, reaching[0] if reaching else int(np.argmin(errors))


def _held_to_floor(
    run: _Run,
    workshop: Workshop,
    plan: Plan,
    fidelity: FidelityReport,
    sensitivities: list[Sensitivity],
) -> FidelityReport:
    """Return the report, marked if it is below the floor and that is allowed."""
    shortfalls = run.options.floor.shortfalls(fidelity)
    if not shortfalls:
        return fidelity
    if run.options.allow_low_fidelity:
        return replace(fidelity, allowed_below=True)
    if not sensitivities and plan.precision != "fp16":
        until = time.monotonic() + _BLAME_S
        sensitivities = measure_sensitivity(workshop, plan, until, run.report)
    hurting = [
        one.name for one in sensitivities if one.gain > 0 and not set(one.layers) <= plan.kept
    ][:5]
    blame = f" Layers that hurt most: {', '.join(hurting)}." if hurting else ""
    repairs = [
        name for name in ("equalize", "ranges", "bias", "layers") if name not in run.options.repairs
    ]
    more = f" Repairs not tried: {','.join(repairs)}." if repairs and hurting else ""
    searched = "layers" in run.options.repairs and plan.precision != "fp16"
    longer = "Give the search more time (--budget), a" if searched else "A"
    raise FidelityError(
        f"{plan.precision} for {plan.target} is below the floor on {fidelity.pictures} held-out "
        f"pictures: {'; '.join(shortfalls)}.{blame}{more} Nothing was kept. {longer}sk for less "
        "(--floor), or record that you allow it (--allow-low-fidelity)"
    )


def _timed(
    run: _Run,
    workshop: Workshop,
    pictures: EvaluationSet,
    model: onnx.ModelProto,
    curve: list[CurvePoint],
) -> tuple[dict[str, dict[str, float]], list[float] | None]:
    """Return milliseconds by batch size beside float32's, and the speed of the curve's points.

    Only kernels of this machine are measured: a graph for TensorRT is timed by its engine.
    """
    if run.options.target != "cpu":
        return {}, None
    run.report("Measuring speed")
    pair = [run.original, model.SerializeToString()]
    times: dict[str, dict[str, float]] = {}
    for batch in _BATCHES:
        before, after = time_models(pictures, pair, batch)
        times[str(batch)] = {"fp32_ms": before, "ms": after, "speedup": before / after}
    if len(curve) < 2:
        return times, None
    speedups: list[float] = []
    for point in curve:
        run.report(f"Measuring speed of the curve, {len(speedups) + 1} of {len(curve)}")
        pair = [run.original, workshop.build(point.plan).SerializeToString()]
        before, after = time_models(pictures, pair, 1)
        speedups.append(before / after)
    return times, speedups
