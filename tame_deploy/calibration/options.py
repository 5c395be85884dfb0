"""What a user may ask of a quantization."""

from __future__ import annotations

from dataclasses import dataclass, field

from tame_deploy.artifact.manifest import Precision
from tame_deploy.calibration.observing.ranges import RangeMethod
from tame_deploy.calibration.passes.placement import TARGETS, Target
from tame_deploy.calibration.search.recovery import RECOVERY_METHODS, RecoveryMethod
from tame_deploy.errors import InputError
from tame_deploy.metrics.fidelity import Floor

__all__ = ["PRECISIONS", "QuantizeOptions"]

PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "int8+fp16")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a graph is brought to lower precision, and what is accepted.

    Attributes:
        precision: "int8", "fp16", or "int8+fp16": what is not quantized is float16.
        target: "cpu" (integer kernels of any processor), "cpu-vnni" (finer weights, for processors
            whose integer kernels do not saturate), or "tensorrt".
        floor: the fidelity below which nothing is kept.
        calibration_size: how many pictures calibrate; at most as many more help to choose a plan.
        held_out_size: how many others are held out to judge the result, at most.
        min_held_out_size: how many at least.
        seed: of the choice.
        recovery: the methods of accuracy recovery to try, in the order of RECOVERY_METHODS.
        ranges: the method to start with; with "ranges" in `recovery` the others are tried, too.
        budget_s: seconds for all trials; what is being tried is finished.
        allow_low_fidelity: keep what is below the floor, and say so in the manifest.

    Raises:
        InputError: for a combination that cannot be honoured.
    """

    precision: Precision = "int8"
    target: Target = "cpu"
    floor: Floor = field(default_factory=Floor)
    calibration_size: int = 128
    held_out_size: int = 1000
    min_held_out_size: int = 32
    seed: int = 0
    recovery: tuple[RecoveryMethod, ...] = RECOVERY_METHODS
    ranges: RangeMethod = "minmax"
    budget_s: float = 300.0
    allow_low_fidelity: bool = False

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InputError(f"unknown target {self.target!r}; expected {', '.join(TARGETS)}")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise InputError(f"unknown precision {self.precision!r}; expected one of {known}")
        if self.precision == "int8+fp16" and self.target != "tensorrt":
            raise InputError(
                "int8+fp16 is for --target tensorrt; CPUs compute float16 in float32, and slower"
            )
        if self.precision == "fp16" and self.target == "cpu-vnni":
            raise InputError("cpu-vnni is for int8; fp16 needs no VNNI, so ask for --target cpu")
        sizes = (self.calibration_size, self.held_out_size, self.min_held_out_size)
        if min(sizes) < 1 or self.budget_s < 0:
            raise InputError(
                f"found {self.calibration_size} pictures to calibrate, {self.held_out_size} to "
                f"hold out and {self.budget_s:g} s; expected at least 1, 1 and 0"
            )
