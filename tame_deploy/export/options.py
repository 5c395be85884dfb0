"""What a user may ask of an exported graph."""

from __future__ import annotations

from dataclasses import dataclass

from tame_deploy.artifact.types import ExplainMode, InputKind, MapKind
from tame_deploy.errors import InputError

__all__ = ["DEFAULT_RANKS", "OPSETS", "ExportOptions"]

#: Opsets that the exporter writes and today's runtimes read.
OPSETS = range(18, 24)

#: Without --top-k: how many ranks -1 can name, and how many a graph without class_ids explains.
DEFAULT_RANKS: dict[ExplainMode, int] = {"selectable": 5, "predicted": 1}


@dataclass(frozen=True)
class ExportOptions:
    """What the graph offers; docs/artifact.md explains each choice.

    Raises:
        InputError: for an opset that cannot be written.
    """

    explain: ExplainMode = "selectable"
    top_k: int | None = None
    input: InputKind = "uint8"
    maps: MapKind = "minmax"
    opset: int = 18

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise InputError(f"--opset is {self.opset}; expected {OPSETS[0]} to {OPSETS[-1]}")

    def ranks(self, classes: int) -> int:
        """Return how many of the most likely classes the graph can explain by rank.

        Raises:
            InputError: if `top_k` is out of range, or given where every class is explained.
        """
        if self.explain == "all":
            if self.top_k is not None:
                raise InputError("--top-k has no meaning with --explain all; leave it out")
            return 0
        top_k = min(DEFAULT_RANKS[self.explain], classes) if self.top_k is None else self.top_k
        if not 1 <= top_k <= classes:
            raise InputError(f"--top-k is {top_k}; expected 1 to {classes}, the number of classes")
        return top_k
