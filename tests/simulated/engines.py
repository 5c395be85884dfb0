"""Engines in artifacts for the simulated GPU."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

from tame_deploy.artifact.directory import ENGINES_FOLDER, file_sha256, open_artifact
from tame_deploy.artifact.sidecar import EngineOptions, EngineSidecar, Profile
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.tensorrt import backend as backend_module
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.backends.tensorrt.backend import TensorRTBackend
from tame_deploy.runtime.backends.tensorrt.flavours import FLAVOURS, Library
from tests.simulated.cudart import SimulatedCuda
from tests.simulated.tensorrt import SimulatedTensorRT, plan_of


def write_engine(path, batches=((1, 4, 8),), explained=(1, 1, 5), **changes):
    """Put an engine for the simulated GPU into an artifact; return its folder."""
    artifact = open_artifact(path)
    manifest = artifact.manifest
    taken = explained if manifest.graph.explain == "selectable" else None
    profiles = tuple(Profile(batch, taken) for batch in batches)
    folder = artifact.path / ENGINES_FOLDER / changes.pop("folder", "tensorrt-fp32-sm86")
    folder.mkdir(parents=True)
    plan = folder / "model.plan"
    plan.write_bytes(plan_of(artifact.model, [(one.batch, one.explained) for one in profiles]))
    options = EngineOptions(profiles, **changes.pop("options", {}))
    sidecar = EngineSidecar(
        flavour="tensorrt",
        version=SimulatedTensorRT.__version__,
        precision=manifest.precision,
        compute_capabilities=("8.6",),
        device="Simulated",
        options=options,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        manifest=manifest.identity(),
        onnx_sha256=manifest.files["model.onnx"],
        plan="model.plan",
        plan_sha256=file_sha256(plan),
        plan_bytes=plan.stat().st_size,
        key="k",
        build_s=1.0,
    )
    (folder / "engine.json").write_text(replace(sidecar, **changes).to_json())
    return folder


def simulate(monkeypatch, *, rtx=False, **device):
    """Put a simulated GPU and library in the place of the real ones; return both."""
    gpu = SimulatedCuda(**device)
    trt = SimulatedTensorRT(gpu, rtx=rtx)
    monkeypatch.setattr(cuda, "_cudart", lambda: gpu)
    monkeypatch.setattr(
        backend_module, "load_library", lambda _: Library(FLAVOURS["tensorrt"], trt)
    )
    return gpu, trt


@contextmanager
def opened(path, **options):
    """Open an artifact's engine; afterwards nothing may be left on the GPU."""
    backend = TensorRTBackend.of_artifact(
        open_artifact(path), "tensorrt", BackendOptions(**options)
    )
    with backend:
        yield backend
