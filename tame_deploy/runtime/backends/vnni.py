"""Whether the integer kernels of this processor are exact, and artifacts that need them to be."""

from __future__ import annotations

import platform

from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import IncompatibleArtifactError
from tame_deploy.runtime.backends.processor import instruction_sets

__all__ = ["check_vnni", "saturates"]


def saturates() -> bool:
    """Whether sums of integer kernels saturate here: x86-64 without VNNI, as far as it is known."""
    sets = instruction_sets()
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and bool(sets) and "vnni" not in sets


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
