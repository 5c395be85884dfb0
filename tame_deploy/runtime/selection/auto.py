"""What "auto" takes: the first backend of the table that can be used, and why the others cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import (
    ArtifactError,
    BackendError,
    BackendNotInstalledError,
    InputError,
    ParityError,
)
from tame_deploy.runtime.backends import table
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
from tame_deploy.runtime.backends.table import BackendSpec
from tame_deploy.runtime.backends.tensorrt.engines import engine_folders
from tame_deploy.runtime.selection.backend_benchmark import benchmark_backends
from tame_deploy.runtime.selection.named import open_named

__all__ = ["Prospect", "cpu_versions", "open_first", "prospects"]

_log = logging.getLogger("tame_deploy")

#: Who gives one of these means a backend that honours it.
_NARROWING = frozenset({"engine", "providers", "threads", "precision", "mode"})


@dataclass(frozen=True)
class Prospect:
    """A backend that may run an artifact here, and why it cannot, if it cannot."""

    spec: BackendSpec
    refusal: str | None


def prospects(artifact: Artifact | None, options: BackendOptions) -> Iterator[Prospect]:
    """Yield the backends in the order of "auto", each with what speaks against it.

    Without an artifact, only the machine is looked at.
    """
    for spec in table.BACKENDS:
        yield Prospect(spec, spec.refusal(artifact, options))


def cpu_versions(found: Iterable[Prospect]) -> dict[str, str]:
    """Return the versions of the backends for CPUs that can be used, by name."""
    return {
        one.spec.name: str(one.spec.version)
        for one in found
        if one.spec.on_cpu and one.refusal is None
    }


def open_first(artifact: Artifact, options: BackendOptions) -> Backend:
    """Open the first backend that can be used; of those for CPUs, the fastest.

    Raises:
        BackendNotInstalledError: if none can, with what speaks against each.
        ParityError: if a graph of lower precision is computed on none as it was made.
        InputError: for options that no backend honours together.
    """
    specs = _considered(options)
    only = {spec.name for spec in specs}
    if len(only) == 1:
        return open_named(artifact, only.pop(), options)
    refusals = []
    for spec in specs:
        reason = spec.refusal(artifact, options)
        if reason is None and spec.on_cpu:
            return _open_on_cpu(artifact, options, specs)
        if reason is None:
            try:
                return open_named(artifact, spec.name, spec.narrowed(options))
            except (BackendError, ArtifactError, ParityError) as error:
                reason = str(error)
        refusals.append(f"{spec.title}: {reason}")
        if _has_engine(artifact, spec):
            _log.warning("the %s engine is not used: %s", spec.name, reason)
    raise BackendNotInstalledError(f"no backend can be used: {'; '.join(refusals)}")


def _considered(options: BackendOptions) -> list[BackendSpec]:
    """Return the backends that the options leave in question."""
    wanted = options.changed() & _NARROWING
    found = [spec for spec in table.BACKENDS if wanted <= spec.honours]
    if not found:
        raise InputError(f"no backend honours {' and '.join(sorted(wanted))} together")
    # Who says how many threads means the CPU, though a GPU's backend may use some as well.
    return [spec for spec in found if spec.on_cpu] if wanted == {"threads"} else found


def _open_on_cpu(
    artifact: Artifact, options: BackendOptions, specs: Sequence[BackendSpec]
) -> Backend:
    """Open the fastest of those for CPUs, measured once."""
    by_name = {spec.name: spec for spec in specs if spec.on_cpu}
    versions = cpu_versions(
        Prospect(spec, spec.refusal(artifact, options)) for spec in by_name.values()
    )

    def open_one(name: str) -> Backend:
        return open_named(artifact, name, by_name[name].narrowed(options))

    while len(versions) > 1:
        chosen = benchmark_backends(artifact, versions, options.threads, open_one)
        try:
            return open_one(chosen)
        except (BackendError, ParityError) as error:
            # It was the fastest once, and cannot be used now; the next one can.
            _log.warning("%s is left out: %s", chosen, error)
            del versions[chosen]
    return open_one(next(iter(versions)))


def _has_engine(artifact: Artifact, spec: BackendSpec) -> bool:
    """Whether somebody compiled for a backend, and would wonder that it is not used."""
    if spec.version is None or not spec.runs_engines:
        return False
    return any(
        folder.name.startswith(f"{spec.name}-{precision}")
        for folder in engine_folders(artifact)
        for precision in (artifact.manifest.precision.replace("+", "-"), "tf32")
    )
