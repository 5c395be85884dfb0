"""How a graph is brought to lower precision, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass

from tame_deploy.artifact.manifest import Precision
from tame_deploy.calibration.observing.ranges import RangeMethod
from tame_deploy.calibration.passes.placement import Target
from tame_deploy.metrics.fidelity import Floor

__all__ = ["HOPELESS", "Plan", "Score"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a graph is brought to lower precision.

    Attributes:
        precision: what the layers become.
        target: whose kernels will run it.
        method: how ranges are set.
        exceptions: (activation, method) where another method serves better.
        strength: of cross-layer equalization; None for none.
        rounded: whether the weights of a layer are rounded together rather than each by itself.
        corrected: whether biases make up for rounded weights.
        excluded: names of the layers that stay in higher precision.
    """

    precision: Precision
    target: Target
    method: RangeMethod = "minmax"
    exceptions: tuple[tuple[str, RangeMethod], ...] = ()
    strength: float | None = None
    rounded: bool = False
    corrected: bool = False
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Score:
    """How far a plan's predictions are from float32's.

    `error` joins logits and maps (`squared_error`); the others are those of the floor.
    """

    error: float
    top1: float
    iou15: float
    pearson5: float

    def reaches(self, floor: Floor) -> bool:
        """Whether the floor is reached."""
        return (
            self.top1 >= floor.top1
            and self.iou15 >= floor.iou15
            and self.pearson5 >= floor.pearson5
        )


#: What a graph is worth that gives NaN, or never predicts the class that float32 does.
HOPELESS = Score(1e6, 0.0, 0.0, -1.0)
