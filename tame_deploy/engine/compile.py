"""`compile`: an artifact gets an engine, built once and found again afterwards."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tame_deploy.artifact.directory import ENGINES_FOLDER, Artifact, file_sha256
from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.sidecar import (
    SIDECAR_NAME,
    EngineOptions,
    EngineSidecar,
    FlavourName,
    Profile,
)
from tame_deploy.engine.build import build_plan, check_options
from tame_deploy.engine.layers import LAYERS_NAME, layers_to_json
from tame_deploy.engine.store import (
    engine_key,
    engines_cache,
    find_engine,
    install,
    locked,
    new_folder,
)
from tame_deploy.engine.timing import TimingCache
from tame_deploy.errors import (
    ArtifactError,
    DeviceError,
    IncompatibleArtifactError,
    InputError,
    TameError,
)
from tame_deploy.files import cache_directory, is_writable
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.backends.tensorrt.engines import (
    StoredEngine,
    check_inside,
    compile_command,
    read_engine,
)
from tame_deploy.runtime.backends.tensorrt.flavours import Library, load_library

__all__ = ["CompileRequest", "Compiled", "compile_artifact", "profiles_for"]

_log = logging.getLogger("tame_deploy")

PLAN_NAME = "model.plan"


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """What to compile for, and how.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        options: of the engine.
        device: number of the GPU that TensorRT builds on.
        rebuild: build again, and replace what is there.
        use_cache: take a finished engine from the user's cache, and keep a new one there.
        use_timings: start from the tactics of earlier builds; None is where that works.
    """

    flavour: FlavourName
    options: EngineOptions
    device: int = 0
    rebuild: bool = False
    use_cache: bool = True
    use_timings: bool | None = None


@dataclass(frozen=True)
class Compiled:
    """An engine in an artifact, and where it came from."""

    engine: StoredEngine
    origin: Literal["built", "cache", "artifact"]


def profiles_for(
    artifact: Artifact, batches: list[tuple[int, int, int]], explained: tuple[int, int, int] | None
) -> tuple[Profile, ...]:
    """Return profiles for an artifact's graph.

    Args:
        artifact: whose graph may take class ids.
        batches: min, opt and max pictures, one profile for each.
        explained: min, opt and max classes for each picture; by default as many as the graph
            ranks. Only for a graph that takes class ids.

    Raises:
        InputError: for sizes out of order, or more classes than there are, or classes for a graph
            that does not take any.
    """
    manifest = artifact.manifest
    if manifest.graph.explain != "selectable":
        if explained is not None:
            raise InputError(
                f"--explained has no meaning: this graph always explains {manifest.graph.explain}"
            )
        return tuple(Profile(batch) for batch in batches)
    ranks = max(manifest.graph.ranks, 1)
    chosen = explained or (1, 1, ranks)
    if not ranks <= chosen[2] <= manifest.classes:
        raise InputError(
            f"--explained is {','.join(map(str, chosen))}; expected at most {manifest.classes} "
            f"classes, and no less than the {ranks} that the graph ranks"
        )
    return tuple(Profile(batch, chosen) for batch in batches)


def compile_artifact(
    artifact: Artifact,
    request: CompileRequest,
    *,
    tell: Callable[[float, str], None] = lambda *_: None,
) -> Compiled:
    """Put an engine of the artifact's graph into its engines/, unless the same is there.

    Raises:
        BackendNotInstalledError: without the library.
        DeviceError: without a GPU where the library needs one.
        InputError: for an option that the library cannot honour.
        IncompatibleArtifactError: for a graph that is made for CPUs.
        ArtifactError: if another engine is there and `rebuild` is off, or it cannot be written.
        BuildError: if the builder fails, or was stopped.
    """
    _check_target(artifact)
    check_inside(artifact, artifact.path / ENGINES_FOLDER)
    library, device = check_request(request)
    cached = is_writable(cache_directory())
    if not cached:
        _log.warning("%s cannot be written; the engine is built without it", cache_directory())
        request = replace(request, use_cache=False, use_timings=False)
    blank = _blank_sidecar(artifact, request, library, device)
    work = _Compilation(
        artifact=artifact,
        request=request,
        builds_with=library,
        device=device,
        blank=blank,
        tell=tell,
    )
    target = artifact.path / ENGINES_FOLDER / _folder_name(blank)
    if not cached:
        return work.into_artifact(target)
    place = hashlib.sha256(str(target.resolve()).encode()).hexdigest()
    with locked(place, lambda: tell(0.0, "Waiting for another process that compiles this")):
        return work.into_artifact(target)


@dataclass(frozen=True, kw_only=True)
class _Compilation:
    """What the steps of one compilation share."""

    artifact: Artifact
    request: CompileRequest
    builds_with: Library
    device: cuda.Device | None
    blank: EngineSidecar
    tell: Callable[[float, str], None]

    def into_artifact(self, target: Path) -> Compiled:
        """Put the engine into a folder, unless it is there."""
        if not self.request.rebuild:
            there = find_engine(target, self.blank.key)
            if there is not None:
                return Compiled(there, "artifact")
            if target.exists():
                raise ArtifactError(
                    f"{target} holds {_held(target, self.blank)}. To replace it: "
                    f"{compile_command(self.artifact, self.blank)}"
                )
        if not self.request.use_cache:
            return Compiled(self._build(target), "built")
        key, told = self.blank.key, "Waiting for another process that builds this"
        kept = engines_cache() / key
        with locked(key, lambda: self.tell(0.0, told)):
            found = None if self.request.rebuild else find_engine(kept, key)
            if found is not None:
                return Compiled(install(found, target), "cache")
            return Compiled(install(self._build(kept), target), "built")

    def _build(self, folder: Path) -> StoredEngine:
        library, device, timing = self.builds_with, self.device, None
        if self.blank.timing_cache and device is not None:
            timing = TimingCache(cache_directory() / "timing", library.version, device.name)
        built = build_plan(
            library,
            self.artifact.model,
            self.artifact.manifest.inputs,
            self.request.options,
            timing=timing,
            tell=self.tell,
            device=device,
        )
        with new_folder(folder) as staging:
            plan = staging / PLAN_NAME
            plan.write_bytes(built.plan)
            sidecar = replace(
                self.blank,
                options=built.options,
                plan_sha256=file_sha256(plan),
                plan_bytes=len(built.plan),
                build_s=round(built.seconds, 3),
            )
            (staging / LAYERS_NAME).write_text(layers_to_json(built.layers), encoding="utf-8")
            (staging / SIDECAR_NAME).write_text(sidecar.to_json(), encoding="utf-8")
        return read_engine(folder)


def check_request(request: CompileRequest) -> tuple[Library, cuda.Device | None]:
    """Return the library, and the GPU where it needs one, if they can do what is asked.

    Raises:
        BackendNotInstalledError: without the library.
        DeviceError: without a GPU where the library needs one.
        InputError: for an option that the library cannot honour.
    """
    if request.flavour == "tensorrt-rtx" and request.device:
        raise InputError("--device has no meaning for tensorrt-rtx, which builds without a GPU")
    device = _builder_device(request.device) if request.flavour == "tensorrt" else None
    library = load_library(request.flavour)
    check_options(library, request.options)
    if request.use_timings and "timing_cache" in library.flavour.lacks:
        reason = library.flavour.lacks["timing_cache"]
        raise InputError(f"{request.flavour} has no --timing-cache: {reason}")
    return library, device


def _builder_device(index: int) -> cuda.Device:
    """Look for the GPU before the library is imported, parts of which crash without a driver."""
    try:
        return cuda.probe(index)
    except DeviceError as error:
        raise DeviceError(
            f"{error}. TensorRT builds on the GPU that will run its engine; --target tensorrt-rtx "
            "builds anywhere"
        ) from None


def _held(target: Path, wanted: EngineSidecar) -> str:
    """Say what is in an engine's folder that is not the engine that is wanted."""
    try:
        found = read_engine(target).sidecar
    except TameError as error:
        return f"a damaged engine ({error})"
    if found.key == wanted.key:
        return "the same engine with a damaged plan"
    if found.version != wanted.version:
        return f"an engine of {found.flavour} {found.version}, not {wanted.version}"
    if found.onnx_sha256 != wanted.onnx_sha256:
        return "an engine of another graph"
    profiles = "; ".join(map(str, found.options.profiles))
    return f"an engine made with other options ({profiles})"


def _check_target(artifact: Artifact) -> None:
    manifest = artifact.manifest
    if manifest.image.dtype == "uint16":
        raise IncompatibleArtifactError(
            f"{artifact.path} takes pictures as uint16, which TensorRT does not take; export it "
            "with --input float32, for which the caller normalises"
        )
    if manifest.target in ("cpu", "cpu-vnni") and manifest.precision != "fp16":
        parents = ", ".join(manifest.parents)
        raise IncompatibleArtifactError(
            f"{artifact.path} is {manifest.precision} for CPUs, which TensorRT does not take; "
            "quantize its float32 artifact with tame-deploy quantize --target tensorrt "
            f"({parents})"
        )


def _blank_sidecar(
    artifact: Artifact, request: CompileRequest, library: Library, device: cuda.Device | None
) -> EngineSidecar:
    """Return the sidecar as far as it is known before the plan is."""
    manifest, options = artifact.manifest, request.options
    timings = request.use_timings is not False and "timing_cache" not in library.flavour.lacks
    capabilities = options.compute_capabilities
    if device is not None and not options.hardware_compatible:
        capabilities = (".".join(map(str, device.capability)),)
    blank = EngineSidecar(
        flavour=request.flavour,
        version=library.version,
        precision=manifest.precision,
        compute_capabilities=capabilities,
        device=device.name if device else None,
        options=options,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        manifest=manifest.identity(),
        onnx_sha256=manifest.files["model.onnx"],
        plan=PLAN_NAME,
        plan_sha256="",
        plan_bytes=0,
        key="",
        build_s=0.0,
        timing_cache=timings,
        calibration=_calibration_key(manifest),
    )
    return replace(blank, key=engine_key(_inputs(blank, artifact)))


def _calibration_key(manifest: Manifest) -> str | None:
    """Return the key of a quantized graph's calibration; a float32 one's is kept for later."""
    quantized = manifest.precision != "fp32" and manifest.calibration is not None
    return manifest.calibration.key if quantized and manifest.calibration else None


def _inputs(blank: EngineSidecar, artifact: Artifact) -> dict[str, Any]:
    described = asdict(blank)
    # Whether tactics were timed before changes how long it takes, not what is asked for.
    for later in ("plan", "plan_sha256", "plan_bytes", "key", "build_s", "timing_cache"):
        del described[later]
    weights = {
        name: sha256
        for name, sha256 in artifact.manifest.files.items()
        if name.startswith("model.onnx")
    }
    return {**described, "weights": weights}


def _folder_name(sidecar: EngineSidecar) -> str:
    capabilities = [f"sm{text.replace('.', '')}" for text in sidecar.compute_capabilities]
    precision = sidecar.shown_precision.replace("+", "-")
    kinds = ("version_compatible", "refit", "strip")
    also = [name.replace("_", "-") for name in kinds if getattr(sidecar.options, name)]
    return "-".join([sidecar.flavour, precision, *capabilities, *also])
