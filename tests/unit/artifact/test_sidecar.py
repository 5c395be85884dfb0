"""engine.json: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tame_deploy.artifact.manifest import ParityReport
from tame_deploy.artifact.sidecar import EngineOptions, EngineSidecar, Profile
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import IncompatibleArtifactError, InputError, ManifestError

extents = st.lists(st.integers(1, 65536), min_size=3, max_size=3).map(lambda x: tuple(sorted(x)))
capabilities = st.lists(
    st.sampled_from(["7.5", "8.0", "8.6", "8.9", "9.0", "12.0", "12.1"]), unique=True
).map(tuple)
options = st.builds(
    EngineOptions,
    st.lists(st.builds(Profile, extents, st.none() | extents), min_size=1, max_size=3).map(tuple),
    st.none() | st.integers(1, 2**20),
    st.integers(0, 5),
    capabilities,
    *(st.booleans() for _ in range(5)),
)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
sidecars = st.builds(
    EngineSidecar,
    flavour=st.sampled_from(["tensorrt", "tensorrt-rtx"]),
    version=st.text(min_size=1, max_size=20),
    precision=st.sampled_from(["fp32", "fp16", "int8", "int8+fp16"]),
    compute_capabilities=capabilities,
    device=st.none() | st.text(max_size=40),
    options=options,
    inputs=st.just((TensorSpec("images", "uint8", ("batch", 8, 8, 3)),)),
    outputs=st.just((TensorSpec("logits", "float32", ("batch", 5)),)),
    manifest=hashes,
    onnx_sha256=hashes,
    plan=st.just("model.plan"),
    plan_sha256=hashes,
    plan_bytes=st.integers(0, 2**40),
    key=hashes,
    build_s=st.floats(0, 1e6),
    timing_cache=st.booleans(),
    calibration=st.none() | hashes,
    parity=st.just({"8": ParityReport(8, 1.0, 0.0, 0.0, 1.0, 0, 0, 0)}),
    verified_on=st.none() | st.text(max_size=40),
)


@given(sidecars)
def test_what_is_written_is_read_back(sidecar):
    assert EngineSidecar.from_json(sidecar.to_json()) == sidecar


@given(sidecars, st.data())
def test_a_missing_or_ill_typed_field_is_named(sidecar, data):
    raw = json.loads(sidecar.to_json())
    required = ["flavour", "version", "options", "plan_sha256", "plan_bytes", "key", "inputs"]
    name = data.draw(st.sampled_from(required))
    if data.draw(st.booleans()):
        del raw[name]
    else:
        raw[name] = data.draw(st.sampled_from([None, True, [[]], {"x": 1}, 1.5]))
    with pytest.raises(ManifestError, match=name):
        EngineSidecar.from_json(json.dumps(raw))


@pytest.mark.parametrize("plan", ["../model.plan", "/etc/passwd", "a/b", "", "..", "a\\b", "C:x"])
def test_a_plan_outside_its_folder_is_refused(plan):
    raw = json.loads(example().to_json())
    with pytest.raises(ManifestError, match="plain file name"):
        EngineSidecar.from_json(json.dumps({**raw, "plan": plan}))


def test_a_newer_sidecar_says_upgrade():
    raw = json.loads(example().to_json())
    with pytest.raises(IncompatibleArtifactError, match="Upgrade"):
        EngineSidecar.from_json(json.dumps({**raw, "schema_version": 2}))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', "null", "[" * 10**5])
def test_what_is_no_sidecar_is_refused(text):
    with pytest.raises(ManifestError):
        EngineSidecar.from_json(text)


def example(capabilities=(), /, **settings):
    return EngineSidecar(
        flavour="tensorrt-rtx",
        version="1.7.1",
        precision="fp32",
        compute_capabilities=capabilities,
        device=None,
        options=EngineOptions((Profile((1, 1, 1)),), **settings),
        inputs=(),
        outputs=(),
        manifest="",
        onnx_sha256="",
        plan="model.plan",
        plan_sha256="",
        plan_bytes=0,
        key="",
        build_s=0.0,
    )


def test_an_engine_runs_on_the_gpus_it_was_made_for():
    assert example(("8.6", "8.9")).runs_on((8, 9))
    assert not example(("8.6",)).runs_on((8, 9))
    assert not example().runs_on((7, 5))
    # TensorRT-RTX leaves the data centre's GPUs to TensorRT.
    assert [example().runs_on(one) for one in ((8, 0), (9, 0), (10, 3), (12, 1))] == [1, 0, 0, 1]
    portable = replace(example(hardware_compatible=True), flavour="tensorrt")
    assert portable.runs_on((9, 0))


def test_the_order_of_compute_capabilities_does_not_matter():
    assert example(compute_capabilities=("12.0", "8.9")) == example(
        compute_capabilities=("8.9", "12.0")
    )


@pytest.mark.parametrize("extent", [(0, 1, 1), (2, 1, 3), (1, 3, 2), (1, 1, 10**9), (-1, 1, 1)])
def test_a_profile_must_rise(extent):
    with pytest.raises(InputError, match="rising, from 1 to"):
        Profile(extent)
    with pytest.raises(InputError, match="profile explained"):
        Profile((1, 1, 1), extent)


@pytest.mark.parametrize(
    "wrong",
    [
        {"profiles": ()},
        {"workspace_mib": 0},
        {"optimization_level": 6},
        {"compute_capabilities": ("89",)},
        {"compute_capabilities": ("8.x",)},
        {"compute_capabilities": ("8.9", "8.9")},
    ],
    ids=str,
)
def test_options_outside_their_range_are_refused(wrong):
    with pytest.raises(InputError):
        EngineOptions(**{"profiles": (Profile((1, 1, 1)),), **wrong})
