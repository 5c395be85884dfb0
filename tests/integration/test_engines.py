"""Engines from real graphs, compiled ahead of time by the TensorRT-RTX builder, without a GPU."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

import onnx
import pytest
import torch
from torch import Tensor, nn

from tame_deploy.artifact.directory import ENGINES_FOLDER, open_artifact
from tame_deploy.artifact.sidecar import EngineOptions, Profile
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.calibration.calibrate import calibrate_artifact
from tame_deploy.calibration.graph import load_graph
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.passes.half import halve
from tame_deploy.calibration.passes.placement import Placement, quantize_graph
from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.engine.build import BuildCancelledError, build_plan, check_options
from tame_deploy.engine.compile import CompileRequest, compile_artifact, profiles_for
from tame_deploy.engine.layers import layers_from_json, precision_counts
from tame_deploy.engine.verify import (
    batches_to_verify,
)
from tame_deploy.errors import (
    ArtifactError,
    BuildError,
    DeviceError,
    IncompatibleArtifactError,
    InputError,
)
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.backends.tensorrt.engines import check_plan, read_engine
from tame_deploy.runtime.backends.tensorrt.flavours import load_library
from tame_deploy.runtime.selection.selection import open_backend
from tests.simulated.cudart import SimulatedCuda

pytest.importorskip("tensorrt_rtx")

TWO_PROFILES = [(1, 1, 4), (8, 16, 32)]
ANY = (TensorSpec("x", "float32", ("n", 3)),)
ONE = EngineOptions((Profile((1, 1, 1)),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library():
    return load_library("tensorrt-rtx")


def options_for(artifact, batches=((1, 4, 8),), explained=None, **settings):
    return EngineOptions(profiles_for(artifact, list(batches), explained), **settings)


def request_for(path, batches=((1, 4, 8),), *, rebuild=False, use_cache=True, **settings):
    options = options_for(open_artifact(path), batches, **settings)
    return CompileRequest(
        flavour="tensorrt-rtx", options=options, rebuild=rebuild, use_cache=use_cache
    )


def compiled(path, **settings):
    return compile_artifact(open_artifact(path), request_for(path, **settings))


class LargeMatrices(nn.Module):
    """A classifier that ends as AlexNet and VGG do, in matrices larger than all before them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=4, padding=1)
        self.last = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.matrices = nn.Sequential(
            nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 9)
        )

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.last(torch.relu(self.first(images))))
        return self.matrices(features.flatten(1))


class Residual(nn.Module):
    """A classifier with additions as ResNets have them: of a shortcut, and of a strided one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, stride=4, padding=3)
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.third = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fourth = nn.Conv2d(32, 32, 3, padding=1)
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.classifier = nn.Linear(32, 9)

    def forward(self, images: Tensor) -> Tensor:
        start = torch.relu(self.stem(images))
        plain = torch.relu(start + self.second(torch.relu(self.first(start))))
        inner = self.fourth(torch.relu(self.third(plain)))
        return self.classifier(torch.relu(inner + self.shortcut(plain)).mean((2, 3)))


RESIDUAL, LARGE_MATRICES = (
    f"tests.integration.test_engines:{name}" for name in ("Residual", "LargeMatrices")
)
LAYERS = {RESIDUAL: ("second", "third", "fourth"), LARGE_MATRICES: ("first", "last")}

# Builds


@pytest.fixture(scope="module")
def artifact(request, demo_export, tmp_path_factory):
    """The fused graph of a backbone; small pictures, because weights alone make it large."""
    if request.param == "demo":
        yield open_artifact(demo_export)
        return
    from tame_deploy.export.artifact_export import export_artifact
    from tame_deploy.export.options import ExportOptions
    from tame_deploy.model.backbones import BackboneRequest, load_backbone
    from tame_deploy.model.network import HeadRequest, build_network

    loaded = load_backbone(BackboneRequest(request.param, "random", image_size=(64, 64)))
    network = build_network(loaded, HeadRequest("random"), LAYERS[request.param])
    folder = tmp_path_factory.mktemp("engines")
    yield export_artifact(network, folder / "it", ExportOptions())
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("artifact", "precision"),
    [
        *((name, bits) for name in ("demo", RESIDUAL) for bits in ("fp32", "fp16", "int8")),
        (LARGE_MATRICES, "int8"),  # int8 asks most of them
    ], indirect=["artifact"], scope="module")  # fmt: skip
def test_fused_graphs_compile_with_two_profiles(artifact, library, tmp_path, precision):
    model = artifact.model
    if precision != "fp32":
        graph, model = load_graph(artifact), tmp_path / "model.onnx"
        ranges = dict.fromkeys(graph.activations, (-4.0, 4.0))
        placed = Placement("tensorrt", ranges, frozenset())
        onnx.save(halve(graph) if precision == "fp16" else quantize_graph(graph, placed), model)
    options = options_for(artifact, TWO_PROFILES)
    built = build_plan(library, model, artifact.manifest.inputs, options)
    assert built.options == options
    assert len(built.plan) > 0.2 * artifact.model.stat().st_size
    counts = precision_counts(built.layers)
    assert counts["fp32"] > 0
    for kind in ("fp16", "int8"):
        assert (kind in counts) == (kind == precision)
    stages = {layer.name.partition("/")[0] for layer in built.layers}
    assert {"backbone", "branches", "tail"} <= stages


def test_an_engine_and_its_sidecar_lie_in_the_artifact(demo_copy):
    told = []
    artifact = open_artifact(demo_copy)
    made = compile_artifact(
        artifact, request_for(demo_copy, TWO_PROFILES), tell=lambda *now: told.append(now)
    )
    engine, sidecar = made.engine, made.engine.sidecar
    assert made.origin == "built"
    assert engine.folder == demo_copy / ENGINES_FOLDER / "tensorrt-rtx-fp32"
    check_plan(artifact, engine)
    assert sidecar.version == load_library("tensorrt-rtx").version
    assert [profile.batch for profile in sidecar.options.profiles] == TWO_PROFILES
    assert sidecar.onnx_sha256 == artifact.manifest.files["model.onnx"]
    assert sidecar.runs_where == "compute capability 8.x, and 12.0 and later"
    assert not sidecar.options.tf32
    layers = layers_from_json((engine.folder / "layers.json").read_text())
    assert any(layer.name.startswith("backbone/Conv") for layer in layers)
    assert told[-1][0] == pytest.approx(1, abs=0.3)
    assert any("backbone/Conv" in words for _, words in told)
    open_artifact(demo_copy)  # still whole
    assert batches_to_verify(sidecar) == [1, 16, 32]


def test_several_compute_capabilities_and_tf32_are_read_back(demo_copy):
    made = compiled(demo_copy, compute_capabilities=("8.6", "8.9"), tf32=True)
    assert made.engine.folder.name == "tensorrt-rtx-tf32-sm86-sm89"
    assert made.engine.sidecar.options.compute_capabilities == ("8.6", "8.9")
    assert made.engine.sidecar.options.tf32


# What cannot be built


def unsupported(tmp_path, text):
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_an_unsupported_operator_is_named_with_its_node(library, tmp_path):
    path = unsupported(
        tmp_path,
        '<ir_version: 8, opset_import: ["" : 18]> g (float[n, 3] x) => (int64[2, m] y)'
        " { y = NonZero(x) }",
    )
    model = onnx.load(path)
    model.graph.node[0].name = "find/NonZero_1"
    onnx.save(model, path)
    with pytest.raises(BuildError, match=r"node find/NonZero_1 \(NonZero\)"):
        build_plan(library, path, ANY, ONE)
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(BuildError, match="Failed to parse the ONNX model"):
        build_plan(library, path, ANY, ONE)
    with pytest.raises(BuildError, match="cannot be found"):
        build_plan(library, tmp_path / "none.onnx", ANY, ONE)


def test_too_small_a_workspace_is_told(demo_copy):
    with pytest.raises(BuildError, match=r"workspace of 1 MiB is too small; raise --workspace"):
        compiled(demo_copy, workspace_mib=1)
    assert compiled(demo_copy, workspace_mib=1024).engine.sidecar.options.workspace_mib == 1024


def test_gpus_that_multiply_no_float32_are_refused(demo_copy):
    with pytest.raises(InputError, match="the tail of the head is float32 in every precision"):
        compiled(demo_copy, compute_capabilities=("7.5",))
    assert not (demo_copy / ENGINES_FOLDER).exists()


def test_an_unusable_cache_costs_the_cache_and_nothing_else(demo_copy, cache, caplog):
    cache.write_text("in the way")
    assert compiled(demo_copy).origin == "built"
    assert "cannot be written; the engine is built without it" in caplog.text
    assert compiled(demo_copy).origin == "artifact"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refit": True}, "tensorrt-rtx has no --refit: "),
        ({"strip": True}, "tensorrt-rtx has no --strip: "),
        ({"version_compatible": True}, "no --version-compatible: it ships no lean runtime"),
        ({"hardware_compatible": True}, "no --hardware-compatible: its engines are portable"),
        ({"compute_capabilities": ("9.0",)}, "found 9.0; H100, H200 and A100 belong to"),
    ],
    ids=str,
)
def test_what_a_flavour_lacks_is_refused_by_name(library, settings, message):
    with pytest.raises(InputError, match=message):
        check_options(library, replace(ONE, **settings))


def test_a_timing_cache_is_refused_where_nothing_is_timed(demo_copy):
    request = replace(request_for(demo_copy), use_timings=True)
    with pytest.raises(InputError, match="has no --timing-cache: it times nothing"):
        compile_artifact(open_artifact(demo_copy), request)


def test_tensorrt_is_not_touched_without_a_driver(demo_copy, monkeypatch):
    monkeypatch.setattr(cuda, "_cudart", lambda: SimulatedCuda(driver=0))
    request = replace(request_for(demo_copy), flavour="tensorrt")
    with pytest.raises(
        DeviceError, match="no NVIDIA driver.*--target tensorrt-rtx builds anywhere"
    ):
        compile_artifact(open_artifact(demo_copy), request)
    compiled(demo_copy)
    with pytest.raises(DeviceError, match="found no NVIDIA driver"):
        open_backend(open_artifact(demo_copy), "tensorrt-rtx")


def test_profiles_follow_the_graph(demo_copy):
    artifact = open_artifact(demo_copy)
    ranks, classes = artifact.manifest.graph.ranks, artifact.manifest.classes
    assert profiles_for(artifact, [(1, 1, 2)], None)[0].explained == (1, 1, ranks)
    for wrong in ((1, 1, ranks - 1), (1, 1, classes + 1)):
        with pytest.raises(InputError, match="--explained is"):
            profiles_for(artifact, [(1, 1, 2)], wrong)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_the_builder_and_leaves_nothing(demo_copy, cache):
    sent = []

    def interrupt(share, _):
        if share > 0 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(BuildCancelledError, match="nothing was kept"):
        compile_artifact(open_artifact(demo_copy), request_for(demo_copy), tell=interrupt)
    assert not list(cache.rglob("*.plan"))
    assert not list(demo_copy.rglob("*.plan"))
    assert compiled(demo_copy).origin == "built"


# Found again


def test_same_inputs_same_engine_other_inputs_another(demo_copy, tmp_path):
    first = compiled(demo_copy)
    assert compiled(demo_copy).origin == "artifact"
    twin = shutil.copytree(demo_copy, tmp_path / "twin")
    shutil.rmtree(twin / ENGINES_FOLDER)
    again = compiled(twin)
    assert again.origin == "cache"
    assert again.engine.plan.read_bytes() == first.engine.plan.read_bytes()
    for changes in ({"batches": ((1, 4, 9),)}, {"tf32": True}, {"optimization_level": 2}):
        shutil.rmtree(twin / ENGINES_FOLDER)
        other = compiled(twin, **changes)
        assert other.origin == "built"
        assert other.engine.sidecar.key != first.engine.sidecar.key


def test_another_engine_in_the_same_place_is_replaced_only_when_told(demo_copy):
    compiled(demo_copy)
    with pytest.raises(ArtifactError, match=r"other options \(batch 1,4,8 .*--batch 1,2,3 .*build"):
        compiled(demo_copy, batches=((1, 2, 3),))
    made = compiled(demo_copy, batches=((1, 2, 3),), rebuild=True)
    assert (made.origin, made.engine.sidecar.options.profiles[0].batch) == ("built", (1, 2, 3))


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_truncated_engine_is_told_and_rebuilt(demo_copy, use_cache):
    made = compiled(demo_copy, use_cache=use_cache)
    made.engine.plan.write_bytes(made.engine.plan.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="the same engine with a damaged plan.*--rebuild"):
        compiled(demo_copy, use_cache=use_cache)
    rebuilt = compiled(demo_copy, rebuild=True, use_cache=use_cache)
    check_plan(open_artifact(demo_copy), rebuilt.engine)
    (rebuilt.engine.folder / "engine.json").write_text("{")
    with pytest.raises(ArtifactError, match="a damaged engine"):
        compiled(demo_copy, use_cache=use_cache)
    assert compiled(demo_copy, rebuild=True, use_cache=use_cache).origin == "built"


def test_a_damaged_engine_in_the_cache_is_built_anew(demo_copy, cache):
    compiled(demo_copy)
    (plan,) = cache.rglob("*.plan")
    plan.write_bytes(b"")
    shutil.rmtree(demo_copy / ENGINES_FOLDER)
    assert compiled(demo_copy).origin == "built"


def test_without_the_cache_nothing_is_kept_there(demo_copy, cache):
    assert compiled(demo_copy, use_cache=False).origin == "built"
    assert not list(cache.rglob("*.plan"))


def test_engines_outlive_a_calibration_of_the_same_graph(demo_copy):
    made = compiled(demo_copy)
    artifact = open_artifact(demo_copy)
    pictures = PicturesToChooseFrom(
        DrawnPictures(HELD_OUT_SEED, 20), "demo-held-out:20", artifact.manifest.image
    )
    calibrated = calibrate_artifact(artifact, pictures, calibration_size=4)
    check_plan(calibrated.artifact, read_engine(made.engine.folder))
    assert compiled(demo_copy).origin == "artifact"


def test_a_graph_of_16_bits_is_refused(demo_copy):
    artifact = open_artifact(demo_copy)
    manifest = replace(artifact.manifest, image=artifact.manifest.image.for_input("uint16"))
    with pytest.raises(IncompatibleArtifactError, match="as uint16, which TensorRT.*--input float"):
        compile_artifact(replace(artifact, manifest=manifest), request_for(demo_copy))


def test_a_graph_for_cpus_is_refused(demo_copy):
    artifact = open_artifact(demo_copy)
    manifest = replace(artifact.manifest, precision="int8", target="cpu", parents=("demo 1",))
    with pytest.raises(IncompatibleArtifactError, match="int8 for CPUs.*--target tensorrt"):
        compile_artifact(replace(artifact, manifest=manifest), request_for(demo_copy))
