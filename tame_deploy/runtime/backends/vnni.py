"""Whether the integer kernels of this processor are exact, and artifacts that need them to be."""

from __future__ import annotations

import platform
from pathlib import Path

from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import IncompatibleArtifactError

__all__ = ["check_vnni", "saturates"]

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def saturates() -> bool:
    """Whether sums of integer kernels saturate here: x86-64 without VNNI, as far as it is known."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return bool(flags) and _VNNI.isdisjoint(flags)


def check_vnni(artifact: Artifact) -> None:
    """Check that this processor computes an artifact's graph as it was made.

    Raises:
        IncompatibleArtifactError: if the graph needs VNNI and there is none.
    """
    if artifact.manifest.target == "cpu-vnni" and saturates():
        raise IncompatibleArtifactError(
            f"{artifact.path} is {artifact.manifest.precision} for processors with VNNI, and this "
            "one has none: its integer kernels would saturate. Quantize the float32 artifact with "
            "--target cpu, for every processor"
        )
