"""The engines in an artifact: which of them this machine can run, told before a plan is touched."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tame_deploy.artifact.directory import ENGINES_FOLDER, Artifact, file_sha256
from tame_deploy.artifact.sidecar import (
    MAX_SIDECAR_BYTES,
    SIDECAR_NAME,
    EngineSidecar,
    FlavourName,
    Profile,
)
from tame_deploy.errors import (
    ArtifactError,
    ChecksumError,
    IncompatibleArtifactError,
    ManifestError,
    TameError,
)
from tame_deploy.runtime.backends.tensorrt.cuda import Device

__all__ = [
    "StoredEngine",
    "check_engine_name",
    "check_graph",
    "check_inside",
    "check_plan",
    "choose_engine",
    "compile_command",
    "engine_folders",
    "read_engine",
]


@dataclass(frozen=True)
class StoredEngine:
    """An engine's folder and its sidecar; the plan has not been looked at."""

    folder: Path
    sidecar: EngineSidecar

    @property
    def plan(self) -> Path:
        """The plan's file."""
        return self.folder / self.sidecar.plan


def engine_folders(artifact: Artifact) -> Iterator[Path]:
    """Yield the folders of an artifact's engines, by name.

    Raises:
        ManifestError: for a link that leads out of the artifact.
    """
    parent = artifact.path / ENGINES_FOLDER
    if not parent.is_dir():
        return
    for folder in sorted(parent.iterdir()):
        if not folder.name.startswith(".") and folder.is_dir():
            check_inside(artifact, folder)
            yield folder


def check_inside(artifact: Artifact, folder: Path) -> None:
    """Check that no link leads out of an artifact.

    Raises:
        ManifestError: if one does.
    """
    if not folder.resolve().is_relative_to(artifact.path.resolve()):
        raise ManifestError(f"{folder} is a link to {folder.resolve()}, outside the artifact")


def check_engine_name(artifact: Artifact, name: str) -> None:
    """Check that an artifact has an engine of a name.

    Raises:
        IncompatibleArtifactError: listing those that it has.
    """
    known = [folder.name for folder in engine_folders(artifact)]
    if name not in known:
        raise IncompatibleArtifactError(
            f"{artifact.path} has no engine {name!r}; found: {', '.join(known) or 'none'}"
        )


def read_engine(folder: Path) -> StoredEngine:
    """Read the sidecar in a folder.

    Raises:
        ManifestError: if it is missing, malformed, or names a file elsewhere.
        IncompatibleArtifactError: if it was written by a newer tame-deploy.
    """
    path = folder / SIDECAR_NAME
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise ManifestError(f"{path} is over {MAX_SIDECAR_BYTES >> 20} MiB; no sidecar is")
        sidecar = EngineSidecar.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{folder} is not an engine: it has no {SIDECAR_NAME}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    except ArtifactError as error:
        message = str(error)
        raise type(error)(message if str(path) in message else f"{path}: {message}") from None
    engine = StoredEngine(folder, sidecar)
    if engine.plan.is_symlink() and engine.plan.resolve().parent != folder.resolve():
        raise ManifestError(f"{engine.plan} is a link to {engine.plan.resolve()}, outside")
    return engine


def choose_engine(
    artifact: Artifact,
    flavour: FlavourName,
    version: str,
    device: Device | None,
    name: str | None = None,
) -> StoredEngine:
    """Return the engine of a flavour that this machine can run.

    Engines for exactly this GPU go before portable ones, float32 before TF32.

    Args:
        artifact: where it lies.
        flavour: "tensorrt" or "tensorrt-rtx".
        version: of that library here.
        device: the GPU here; None leaves the GPU out of the question.
        name: the engine's folder in engines/, to take no other.

    Raises:
        IncompatibleArtifactError: if there is none for this machine, saying what was found, what
            was expected, and the command that makes one.
        ManifestError: if the one that was named is malformed.
    """
    usable: list[StoredEngine] = []
    refused: list[TameError] = []
    for folder in engine_folders(artifact):
        if name not in (None, folder.name):
            continue
        try:
            engine = read_engine(folder)
            if name is None and engine.sidecar.flavour != flavour:
                continue
            _check_flavour(engine, flavour)
            _check_machine(artifact, engine, version, device)
            usable.append(engine)
        except TameError as error:
            if name is not None:
                raise
            ours = folder.name.startswith(f"{flavour}-")
            if ours or isinstance(error, IncompatibleArtifactError):
                refused.append(error)
    if usable:
        return min(usable, key=_preference)
    if refused:
        told = "; ".join(map(str, refused))
        raise refused[0] if len(refused) == 1 else IncompatibleArtifactError(told)
    raise _nothing_to_run(artifact, flavour, name)


def _nothing_to_run(
    artifact: Artifact, flavour: FlavourName, name: str | None
) -> IncompatibleArtifactError:
    known = ", ".join(folder.name for folder in engine_folders(artifact)) or "none"
    return IncompatibleArtifactError(
        f"{artifact.path} has no {flavour} engine{f' {name}' if name else ''} (found: {known}). "
        f"Make one: tame-deploy compile {shlex.quote(str(artifact.path))} --target {flavour}"
    )


def _check_flavour(engine: StoredEngine, flavour: FlavourName) -> None:
    if engine.sidecar.flavour != flavour:
        raise IncompatibleArtifactError(
            f"{engine.folder} is for {engine.sidecar.flavour}; expected one for {flavour}"
        )


def _preference(engine: StoredEngine) -> tuple[bool, bool, str]:
    sidecar = engine.sidecar
    return not sidecar.compute_capabilities, sidecar.options.tf32, engine.folder.name


def _check_machine(
    artifact: Artifact, engine: StoredEngine, version: str, device: Device | None
) -> None:
    check_graph(artifact, engine)
    sidecar, rebuild = engine.sidecar, compile_command(artifact, engine.sidecar, device)
    here = f"; this machine is {_dotted(device)} with {version}" if device else f", not {version}"
    made = f"{engine.folder}: engine built for {sidecar.runs_where} with {sidecar.version}"
    if device is not None and not sidecar.runs_on(device.capability):
        raise IncompatibleArtifactError(f"{made}{here}. Rebuild: {rebuild}")
    if sidecar.version != version and not _loads_later(sidecar, version):
        raise IncompatibleArtifactError(f"{made}{here}. Rebuild: {rebuild}")


def check_graph(artifact: Artifact, engine: StoredEngine) -> None:
    """Check that an engine was built from the artifact's own graph.

    Raises:
        IncompatibleArtifactError: if it was not.
    """
    sidecar, model = engine.sidecar, artifact.manifest.files["model.onnx"]
    if sidecar.onnx_sha256 != model or sidecar.manifest != artifact.manifest.identity():
        raise IncompatibleArtifactError(
            f"{engine.folder} was built from graph {sidecar.onnx_sha256[:16]}…; this artifact's "
            f"is {model[:16]}…. Rebuild: {compile_command(artifact, sidecar)}"
        )


def _dotted(device: Device) -> str:
    return ".".join(map(str, device.capability))


def _loads_later(sidecar: EngineSidecar, version: str) -> bool:
    """Whether a later version of the library takes an earlier one's engine."""
    if not sidecar.options.version_compatible:
        return False
    return _numbers(version) >= _numbers(sidecar.version)


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in version.split(".")]


def check_plan(artifact: Artifact, engine: StoredEngine) -> None:
    """Check that the plan is the file that its sidecar describes, before any library reads it.

    Raises:
        ChecksumError: if it is missing, truncated or altered.
    """
    sidecar, path = engine.sidecar, engine.plan
    rebuild = f"Rebuild: {compile_command(artifact, sidecar)}"
    if not path.is_file():
        raise ChecksumError(f"{path} is missing. {rebuild}")
    size = path.stat().st_size
    if size != sidecar.plan_bytes:
        raise ChecksumError(f"{path} has {size} bytes; expected {sidecar.plan_bytes}. {rebuild}")
    found = file_sha256(path)
    if found != sidecar.plan_sha256:
        raise ChecksumError(
            f"{path} was altered: its sha256 is {found[:16]}…, {SIDECAR_NAME} says "
            f"{sidecar.plan_sha256[:16]}…. {rebuild}"
        )


def compile_command(
    artifact: Artifact, sidecar: EngineSidecar, device: Device | None = None
) -> str:
    """Return the command that makes an engine again, with the options that made it.

    With a device that the engine was not made for, it is the command for that device.
    """
    options, flavour = sidecar.options, sidecar.flavour
    if device is not None and not sidecar.runs_on(device.capability):
        options = replace(options, compute_capabilities=())
        if not replace(sidecar, options=options, compute_capabilities=()).runs_on(
            device.capability
        ):
            flavour = "tensorrt"  # which builds for any GPU that it finds
    words = ["tame-deploy", "compile", str(artifact.path), "--target", flavour]
    if device is not None and device.index and flavour == "tensorrt":
        words += ["--device", str(device.index)]
    for profile in options.profiles:
        words += ["--batch", _extent(profile.batch)]
    words += _explained_option(options.profiles)
    if options.workspace_mib is not None:
        words += ["--workspace", str(options.workspace_mib)]
    if options.optimization_level != 3:
        words += ["--optimization-level", str(options.optimization_level)]
    for capability in options.compute_capabilities:
        words += ["--compute-capability", capability]
    flags = ("tf32", "version_compatible", "hardware_compatible", "refit", "strip")
    words += [f"--{name.replace('_', '-')}" for name in flags if getattr(options, name)]
    return shlex.join([*words, "--rebuild"])


def _extent(extent: tuple[int, int, int]) -> str:
    return ",".join(map(str, extent))


def _explained_option(profiles: tuple[Profile, ...]) -> list[str]:
    """All profiles share it: it is one option of the command."""
    explained = profiles[0].explained
    return [] if explained is None else ["--explained", _extent(explained)]
