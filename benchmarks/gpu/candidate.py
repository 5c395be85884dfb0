"""What is timed: a name, how it is made ready, and its two calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from place import Place

#: PyTorch's arithmetic, and the graphs'; "tf32" is the float32 graph with its products rounded.
PRECISIONS = ("fp32", "tf32", "fp16", "int8", "int8+fp16")


@dataclass(frozen=True)
class Opened:
    """A candidate that is ready to run.

    Attributes:
        on_device: queues one call on the place's stream; inputs and outputs stay on the GPU.
        from_host: one call, numpy in and numpy out.
        close: frees everything.
        facts: worth noting beside its numbers.
    """

    on_device: Callable[[], Any]
    from_host: Callable[[], Any]
    close: Callable[[], None]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """Something to time at one batch size.

    Attributes:
        backend: what runs it.
        precision: one of `PRECISIONS`.
        name: "plain" (the classifier alone), "fused", "reference" or "grad-cam".
        open: makes it ready to run; raises where it cannot be had.
        prepare: what takes long and needs to be done once, before memory is watched.
    """

    backend: str
    precision: str
    name: str
    open: Callable[[Place], Opened]
    prepare: Callable[[], object] = lambda: None

    @property
    def family(self) -> tuple[str, str]:
        """Subjects whose ratios are taken: same backend, same precision."""
        return self.backend, self.precision

    @property
    def by_torch(self) -> bool:
        """Whether its memory is torch's."""
        return self.backend.startswith("torch")

    def __str__(self) -> str:
        return f"{self.backend} {self.precision} {self.name}"
