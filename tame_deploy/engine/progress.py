"""How far a builder is, and a way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["BuildProgress", "make_monitor"]


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Follows the phases of a build; its methods may be called from any thread.

    Args:
        tell: called with the share done, in [0, 1] and never less than before, and what is done.
        layers: names of what the builder goes through, in order; may be set before it begins.
    """

    def __init__(
        self, tell: Callable[[float, str], None] = lambda *_: None, layers: Sequence[str] = ()
    ) -> None:
        self.layers = layers
        self.cancelled = threading.Event()
        self._tell = tell
        self._phases: list[_Phase] = []
        self._share = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase, inside another or as the outermost."""
        with self._lock:
            self._phases.append(_Phase(name, parent, max(steps, 1)))
            self._report()

    def step(self, name: str, step: int) -> bool:
        """Count one step of a phase as done; returns whether to go on."""
        with self._lock:
            phase = self._find(name)
            if phase is not None:
                phase.done = min(step + 1, phase.steps)
                self._report()
        return not self.cancelled.is_set()

    def finish(self, name: str) -> None:
        """End a phase."""
        with self._lock:
            phase = self._find(name)
            if phase is None:
                return
            self._phases.remove(phase)
            if phase.parent is None:
                self._share = 1.0
            self._report()

    def _find(self, name: str) -> _Phase | None:
        """Phases of one name may be nested in different ones; the latest is meant."""
        return next((one for one in reversed(self._phases) if one.name == name), None)

    def _report(self) -> None:
        share, weight = 0.0, 1.0
        for phase in self._phases:
            share += weight * phase.done / phase.steps
            weight /= phase.steps
        self._share = max(self._share, min(share, 1.0))
        if self._phases:
            # An exception would tear through the builder's C++; a bar that cannot be drawn is none.
            with suppress(Exception):
                self._tell(self._share, self._words(self._phases[-1]))

    def _words(self, phase: _Phase) -> str:
        """Name the layer, where a phase has a step for each."""
        if phase.steps == len(self.layers) and phase.done < phase.steps:
            return f"{phase.name}: {self.layers[phase.done]}"
        return phase.name


def make_monitor(trt: Any, progress: BuildProgress) -> Any:
    """Return a progress monitor of a TensorRT module."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes phases on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """Begin a phase."""
            progress.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            """Count a step; false stops the build."""
            return progress.step(name, step)

        def phase_finish(self, name: str) -> None:
            """End a phase."""
            progress.finish(name)

    return Monitor()
