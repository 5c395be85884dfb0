"""An engine on its device beside PyTorch and float32, at the sizes it was compiled for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tame_deploy.artifact.directory import Artifact, open_artifact
from tame_deploy.artifact.manifest import FidelityReport, ParityReport
from tame_deploy.artifact.sidecar import SIDECAR_NAME, EngineSidecar
from tame_deploy.errors import ArtifactError, FidelityError, IncompatibleArtifactError
from tame_deploy.files import replaced_file
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.metrics.faithfulness import assess, fidelity_report
from tame_deploy.metrics.fidelity import Floor
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.backends.tensorrt.engines import StoredEngine
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import Arithmetic, check_parity
from tame_deploy.runtime.verify.reference import ParityReference

__all__ = ["Verdict", "batches_to_verify", "float32_parent", "verify_backend", "write_verdict"]


@dataclass(frozen=True)
class Verdict:
    """How far from PyTorch, and with pictures from float32, by batch size."""

    parity: dict[str, ParityReport]
    fidelity: dict[str, FidelityReport]
    floor: Floor

    def check(self) -> None:
        """Hold every batch size to the floor.

        Raises:
            FidelityError: naming the batch size and what is below.
        """
        for batch, report in self.fidelity.items():
            shortfalls = self.floor.shortfalls(report)
            if shortfalls:
                raise FidelityError(
                    f"below the floor at batch {batch}, on {report.pictures} pictures: "
                    f"{'; '.join(shortfalls)}. Compile at another precision, or ask for less "
                    "(--floor)"
                )


def batches_to_verify(sidecar: EngineSidecar) -> list[int]:
    """Return 1, the profiles' opt sizes and the largest max: kernels differ from size to size."""
    batches = [profile.batch for profile in sidecar.options.profiles]
    return sorted({1, *(opt for _, opt, _ in batches), max(largest for *_, largest in batches)})


def float32_parent(artifact: Artifact, named: str | None) -> Artifact:
    """Return the float32 artifact that an artifact is judged by: itself, or what it was made of.

    Args:
        artifact: in any precision.
        named: where the parent is; by default beside the artifact, under its own name.

    Raises:
        IncompatibleArtifactError: if it is not there, or another one.
        ArtifactError: if it cannot be opened.
    """
    if not artifact.manifest.parents:
        if named is not None:
            raise IncompatibleArtifactError(f"{artifact.path} was made of no other artifact")
        return artifact
    name, _, identity = artifact.manifest.parents[-1].rpartition(" ")
    path = Path(named) if named is not None else artifact.path.absolute().parent / name
    if named is None and not path.is_dir():
        raise IncompatibleArtifactError(
            f"{artifact.path} was made of {name}, which is not beside it; say where: --against DIR"
        )
    parent = open_artifact(path)
    if parent.manifest.identity() != identity:
        raise IncompatibleArtifactError(
            f"{path} is not the artifact that {artifact.path} was made of ({name}); say where that "
            "is: --against DIR"
        )
    return parent


def verify_backend(
    artifact: Artifact,
    backend: Backend,
    batches: Sequence[int],
    *,
    arithmetic: Arithmetic = "own",
    held_out: tuple[EvaluationSet, Artifact] | None = None,
    floor: Floor | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Compare a backend with PyTorch, and with the float32 graph on pictures, at batch sizes.

    Args:
        artifact: whose graph the backend runs.
        backend: what is judged.
        batches: how many pictures at a time.
        arithmetic: what it computes in (`check_parity`); bfloat16 is for fidelity to judge.
        held_out: pictures to measure fidelity on, and the float32 artifact.
        floor: of fidelity; by default the one that the artifact was held to.
        report: told what is being done.

    Raises:
        ParityError: if it disagrees with PyTorch by more than it may.
        BackendError: if it cannot be run.
    """
    reference = ParityReference.load(artifact)
    parity: dict[str, ParityReport] = {}
    for batch in batches:
        report(f"Comparing with PyTorch at batch {batch}")
        parity[str(batch)] = check_parity(
            backend, reference, artifact, batches=[batch], arithmetic=arithmetic
        )
    recorded = artifact.manifest.fidelity
    floor = floor or (Floor(**recorded.floor) if recorded and recorded.floor else Floor())
    if held_out is None:
        return Verdict(parity, {}, floor)
    pictures, parent = held_out
    report("Asking the float32 graph")
    # On the CPU: it must owe nothing to what is judged.
    with open_backend(parent, "onnxruntime") as float32:
        expected = assess(pictures, float32)
    fidelity = {}
    for batch in batches:
        report(f"Judging at batch {batch}")
        found = assess(pictures, backend, expected.predictions.class_ids, batch=batch)
        measured = fidelity_report(pictures, expected, found)
        fidelity[str(batch)] = replace(measured, floor=asdict(floor))
    return Verdict(parity, fidelity, floor)


def write_verdict(
    engine: StoredEngine, verdict: Verdict | None, device: str | None
) -> EngineSidecar:
    """Write what was measured into an engine's sidecar, in place of what was; None takes it out.

    Raises:
        ArtifactError: if it cannot be written.
    """
    sidecar = replace(
        engine.sidecar,
        parity=verdict.parity if verdict else {},
        fidelity=verdict.fidelity if verdict else {},
        verified_on=device,
    )
    text = sidecar.to_json()
    EngineSidecar.from_json(text)  # what cannot be read back is not kept
    path = engine.folder / SIDECAR_NAME
    try:
        with replaced_file(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error
    return sidecar
