"""Which engine runs here, told before any library sees a plan."""

from __future__ import annotations

import shlex

import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.artifact.sidecar import EngineOptions, Profile
from tame_deploy.errors import ChecksumError, IncompatibleArtifactError, ManifestError
from tame_deploy.runtime.backends.tensorrt.cuda import Device
from tame_deploy.runtime.backends.tensorrt.engines import (
    check_plan,
    choose_engine,
    compile_command,
    read_engine,
)
from tests.simulated.engines import write_engine

VERSION = "10.13.2"


def choose(path, capability=(8, 6), version=VERSION, name=None, flavour="tensorrt"):
    device = Device(0, "GPU", capability, 1 << 30, (13, 0))
    return choose_engine(open_artifact(path), flavour, version, device, name)


def test_the_one_for_this_gpu_goes_before_a_portable_one(demo_copy):
    write_engine(demo_copy, folder="tensorrt-fp32", compute_capabilities=())
    write_engine(demo_copy, folder="tensorrt-tf32-sm86", options={"tf32": True})
    assert choose(demo_copy).folder.name == "tensorrt-tf32-sm86"
    write_engine(demo_copy, folder="tensorrt-z-sm86")
    assert choose(demo_copy).folder.name == "tensorrt-z-sm86"  # float32 before TF32
    assert choose(demo_copy, capability=(9, 0)).folder.name == "tensorrt-fp32"
    assert choose(demo_copy, name="tensorrt-fp32").folder.name == "tensorrt-fp32"


def test_without_an_engine_the_command_that_makes_one(demo_copy):
    with pytest.raises(IncompatibleArtifactError, match="no tensorrt engine .found: none.") as told:
        choose(demo_copy)
    assert str(told.value).endswith(f"tame-deploy compile {demo_copy} --target tensorrt")
    write_engine(demo_copy)
    with pytest.raises(IncompatibleArtifactError, match="no tensorrt-rtx engine .found: tensorrt-"):
        choose(demo_copy, flavour="tensorrt-rtx")
    with pytest.raises(IncompatibleArtifactError, match="no tensorrt engine other"):
        choose(demo_copy, name="other")
    with pytest.raises(IncompatibleArtifactError, match="is for tensorrt; expected one for"):
        choose(demo_copy, flavour="tensorrt-rtx", name="tensorrt-fp32-sm86")


def test_another_gpu_or_version_is_one_line(demo_copy):
    write_engine(demo_copy)
    with pytest.raises(
        IncompatibleArtifactError,
        match=r"engine built for compute capability 8.6 with 10.13.2; this machine is 9.0 with "
        r"10.13.2. Rebuild: tame-deploy compile .* --target tensorrt --batch 1,4,8 "
        r"--explained 1,1,5 --rebuild",
    ):
        choose(demo_copy, capability=(9, 0))
    with pytest.raises(IncompatibleArtifactError, match="this machine is 8.6 with 11.4"):
        choose(demo_copy, version="11.4")


def test_every_refused_engine_says_why(demo_copy):
    write_engine(demo_copy, folder="tensorrt-a")
    write_engine(demo_copy, folder="tensorrt-b", version="9.9")
    with pytest.raises(IncompatibleArtifactError, match="tensorrt-a.*; .*tensorrt-b"):
        choose(demo_copy, capability=(9, 0))


def test_version_compatible_engines_go_forwards_and_never_back(demo_copy):
    write_engine(demo_copy, options={"version_compatible": True})
    assert choose(demo_copy, version="11.0.1")
    with pytest.raises(IncompatibleArtifactError):
        choose(demo_copy, version="10.9.0")


@pytest.mark.parametrize("change", [{"onnx_sha256": "0" * 64}, {"manifest": "0" * 64}])
def test_an_engine_of_another_graph_is_refused(demo_copy, change):
    write_engine(demo_copy, **change)
    with pytest.raises(IncompatibleArtifactError, match="was built from graph"):
        choose(demo_copy)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plan: plan.write_bytes(plan.read_bytes()[:-1]), "bytes; expected"),
        (lambda plan: plan.write_bytes(b""), "has 0 bytes; expected"),
        (lambda plan: plan.write_bytes(plan.read_bytes()[::-1]), "was altered"),
        (lambda plan: plan.unlink(), "is missing"),
    ],
    ids=["truncated", "empty", "altered", "missing"],
)
def test_a_damaged_plan_is_told_before_it_is_read(demo_copy, spoil, message):
    folder = write_engine(demo_copy)
    spoil(folder / "model.plan")
    artifact = open_artifact(demo_copy)
    with pytest.raises(ChecksumError, match=f"{message}.*Rebuild: tame-deploy compile"):
        check_plan(artifact, choose(demo_copy))


def test_a_malformed_sidecar_does_not_hide_a_good_one(demo_copy):
    folder = write_engine(demo_copy, folder="tensorrt-bad")
    (folder / "engine.json").write_text("{")
    with pytest.raises(ManifestError, match="engine.json is not valid JSON"):
        choose(demo_copy)
    write_engine(demo_copy)
    assert choose(demo_copy).folder.name == "tensorrt-fp32-sm86"
    with pytest.raises(ManifestError):
        choose(demo_copy, name="tensorrt-bad")


def test_links_out_of_the_artifact_are_refused(demo_copy, tmp_path):
    folder = write_engine(demo_copy)
    outside = tmp_path / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    with pytest.raises(ManifestError, match="outside the artifact"):
        choose(demo_copy)
    folder.unlink()
    outside.rename(folder)
    plan = folder / "model.plan"
    plan.rename(tmp_path / "elsewhere.plan")
    plan.symlink_to(tmp_path / "elsewhere.plan")
    with pytest.raises(ManifestError, match="outside"):
        choose(demo_copy)


@pytest.mark.parametrize(
    ("capability", "target", "capabilities"),
    [((12, 0), "tensorrt-rtx", 0), ((9, 0), "tensorrt", 0), ((8, 6), "tensorrt-rtx", 2)],
)
def test_the_command_is_for_the_gpu_that_asks(demo_copy, capability, target, capabilities):
    options = {"compute_capabilities": ("8.6", "8.9")}
    write_engine(demo_copy, flavour="tensorrt-rtx", options=options, folder="x", **options)
    artifact = open_artifact(demo_copy)
    device = Device(0, "GPU", capability, 1 << 30, (13, 0))
    sidecar = read_engine(demo_copy / "engines" / "x").sidecar
    words = shlex.split(compile_command(artifact, sidecar, device))
    assert words[words.index("--target") + 1] == target
    assert words.count("--compute-capability") == capabilities


def test_the_command_repeats_every_option(demo_copy):
    options = EngineOptions(
        (Profile((1, 2, 3), (1, 1, 7)), Profile((4, 4, 4), (1, 1, 7))),
        workspace_mib=64,
        optimization_level=5,
        compute_capabilities=("8.9", "12.0"),
        tf32=True,
        strip=True,
    )
    write_engine(demo_copy)
    sidecar = choose(demo_copy).sidecar
    object.__setattr__(sidecar, "options", options)
    words = shlex.split(compile_command(open_artifact(demo_copy), sidecar))
    assert words[3:] == [
        *("--target", "tensorrt", "--batch", "1,2,3", "--batch", "4,4,4", "--explained", "1,1,7"),
        *("--workspace", "64", "--optimization-level", "5", "--compute-capability", "8.9"),
        *("--compute-capability", "12.0", "--tf32", "--strip", "--rebuild"),
    ]
