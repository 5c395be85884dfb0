"""compile, inspect, verify and doctor as a user meets them, on a machine that may have no GPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tame_deploy.errors import TameError
from tame_deploy.runtime.backends.openvino import computes_bfloat16
from tame_deploy.runtime.backends.tensorrt import cuda
from tests.command_line import one_line, run, run_here

pytest.importorskip("tensorrt_rtx")

RTX = ("--target", "tensorrt-rtx")


def has_gpu():
    try:
        cuda.probe()
    except TameError:
        return False
    return True


@pytest.fixture
def settings(tmp_path):
    return {"TAME_DEPLOY_CACHE": str(tmp_path / "cache")}


@pytest.fixture(scope="module")
def one_cache(tmp_path_factory):
    """Settings for tests that need an engine and not its making: the second finds the first's."""
    return {"TAME_DEPLOY_CACHE": str(tmp_path_factory.mktemp("one-cache"))}


@pytest.fixture
def no_gpu():
    if has_gpu():
        pytest.skip("this machine has a GPU")


def test_from_graph_to_engine(demo_copy, settings):
    done = run("compile", demo_copy, *RTX, "--batch", "1,2,4", "--batch", 8, env=settings)
    for words in ("tensorrt-rtx-fp32: compiled in", "batch 1,2,4", "batch 8,8,8", "inspect"):
        assert words in done.stdout, words
    assert "there already" in run(
        "compile", demo_copy, *RTX, "--batch", "1,2,4", "--batch", 8, env=settings
    ).stdout  # fmt: skip
    refused = run("compile", demo_copy, *RTX, env=settings, expect=1)
    one_line(refused)
    assert "an engine made with other options (batch 1,2,4" in refused.stderr
    assert "compiled in" in run("compile", demo_copy, *RTX, "--rebuild", env=settings).stdout
    assert "engines/tensorrt-rtx-fp32" in run("inspect", demo_copy).stdout


def test_an_engine_is_inspected_as_a_table_and_as_json(demo_copy, one_cache, no_gpu):
    run("compile", demo_copy, *RTX, "--batch", 4, env=one_cache)
    folder = demo_copy / "engines" / "tensorrt-rtx-fp32"
    shown = run("inspect", folder)
    for words in ("tensorrt-rtx-fp32", "batch 4,4,4", "backbone/Conv", "convolution", "fp32"):
        assert words in shown.stdout, words
    assert "before it was fused, because: found no NVIDIA driver" in shown.stderr
    assert "not verified" in shown.stderr
    described = json.loads(run("inspect", folder / "model.plan", "--json").stdout)
    assert described["engine"]["flavour"] == "tensorrt-rtx"
    assert described["memory"]["plan"] == (folder / "model.plan").stat().st_size
    assert described["precisions"]["fp32"] > 10
    assert {"name", "type", "precision", "shape", "fused"} == set(described["layers"][0])
    (folder / "model.plan").write_bytes(b"short")
    refused = run("inspect", folder, expect=1)
    one_line(refused)
    assert "has 5 bytes; expected" in refused.stderr
    assert "damaged: " in run("inspect", demo_copy).stdout
    (folder / "engine.json").write_text("{}")
    for command in ("inspect", "doctor"):
        assert "damaged: " in run(command, demo_copy).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "8,4,1"], "profile batch is 8,4,1; expected min, opt and max, rising"),
        (["--batch", "1,2"], "--batch is '1,2'; expected min,opt,max as in 1,8,64"),
        (["--batch", "0"], "profile batch is 0,0,0"),
        (["--explained", "1,1,999"], "--explained is 1,1,999; expected at most 6 classes"),
        (["--compute-capability", "9.0"], "H100, H200 and A100 belong to --target tensorrt"),
        (["--compute-capability", "x"], "found compute capability 'x'"),
        (["--refit"], "tensorrt-rtx has no --refit"),
        (["--timing-cache"], "tensorrt-rtx has no --timing-cache: it times nothing"),
        (["--precision", "int8"], "int8 is quantized first, and held to float32 on pictures"),
        (["--images", "demo:40"], "no meaning: nothing is quantized"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compiled_is_one_line(demo_copy, arguments, words):
    done = run_here("compile", demo_copy, *RTX, *arguments, expect=1)
    one_line(done)
    assert words in done.stderr
    assert not (demo_copy / "engines").exists()


def test_a_lower_precision_is_quantized_first_and_found_again(demo_copy, settings):
    done = run(
        "compile", demo_copy, *RTX, "--precision", "fp16", "--images", "demo:90",
        "--calibration-size", 32, "--batch", 4, env=settings,
    )  # fmt: skip
    assert "top-1 agreement" in done.stdout
    made = demo_copy.with_name("demo-fp16-tensorrt")
    assert (made / "engines" / "tensorrt-rtx-fp16" / "model.plan").is_file()
    again = run("compile", demo_copy, *RTX, "--precision", "fp16", "--batch", 4, env=settings)
    assert "was quantized before, and is taken" in again.stderr
    assert "there already" in again.stdout
    pictures = (
        "--precision",
        "fp16",
        "--images",
        "demo:90",
        "--calibration-size",
        32,
        "--batch",
        4,
    )
    refused = run("compile", demo_copy, *RTX, *pictures, env=settings, expect=1)
    assert "leave --images out to compile it, or add --rebuild" in refused.stderr
    anew = run("compile", demo_copy, *RTX, *pictures, "--rebuild", env=settings)
    assert "top-1 agreement" in anew.stdout
    refused = run("compile", made, *RTX, "--precision", "int8", env=settings, expect=1)
    assert "is fp16; to get int8, compile the float32 artifact" in refused.stderr
    run("compile", made, *RTX, "--precision", "fp16", "--batch", 4, env=settings)


def test_a_device_that_is_not_there_is_one_line(demo_copy, one_cache, settings, no_gpu, tmp_path):
    run("compile", demo_copy, *RTX, "--batch", 4, env=one_cache)
    picture = "tame_deploy/data/pictures/ring-1.png"
    for command in (
        ["compile", demo_copy, "--target", "tensorrt"],
        ["verify", demo_copy, *RTX],
        ["explain", demo_copy, picture, "-o", tmp_path / "x", "--backend", "tensorrt-rtx"],
    ):
        refused = run(*command, env=settings, expect=1)
        one_line(refused)
        assert "found no NVIDIA driver; expected one for CUDA" in refused.stderr
    done = run("explain", demo_copy, picture, "-o", tmp_path / "x", env=settings)
    # Whichever of the two was measured to be the fastest here, and now.
    assert re.search("with (onnxruntime|openvino) on CPU", done.stdout)


def test_verify_refuses_what_it_would_ignore(demo_copy):
    for option, value, needed in (("--floor", "top1=1", "images"), ("--engine", "x", "target")):
        refused = run_here("verify", demo_copy, option, value, expect=1)
        assert f"{option} has no meaning without --{needed}" in refused.stderr
    for options in (["--threads", 2], ["--precision", "bf16"], ["--backend", "openvino"]):
        refused = run_here("verify", demo_copy, *RTX, *options, expect=1)
        assert "no meaning with --target" in refused.stderr
    refused = run_here("verify", demo_copy, "--precision", "bf16", expect=1)
    assert "precision has no meaning for backend onnxruntime" in refused.stderr


@pytest.mark.skipif(not computes_bfloat16(), reason="this CPU has no bfloat16")
def test_bfloat16_is_held_to_the_floor_on_pictures(demo_copy):
    bf16 = ["--backend", "openvino", "--precision", "bf16"]
    assert "not grossly wrong" in run("verify", demo_copy, *bf16).stdout
    judged = [*bf16, "--images", "demo:40", "--held-out-size", 8]
    done = run("verify", demo_copy, *judged).stdout
    assert "above the floor" in done
    assert "IoU of the top 15 %" in done
    refused = run("verify", demo_copy, *judged, "--floor", "pearson5=1", expect=1)
    assert "below the floor at batch 1, on 8 pictures: map Pearson" in refused.stderr


def test_doctor_says_what_will_run_and_why_nothing_faster(demo_copy, no_gpu):
    shown = run("doctor", demo_copy).stdout
    for words in (
        "GPU        none: found no NVIDIA driver",
        "libtame    its TensorRT plugin is experimental: it has not run on a GPU yet",
        "tensorrt-rtx",
        "will be used",
    ):
        assert words in shown, words
    assert f"{demo_copy} with o" in shown  # openvino or onnxruntime
    told = json.loads(run("doctor", "--json").stdout)
    assert "experimental" in told["libtame"]
    assert told["chosen"] in ("onnxruntime (CPU)", "openvino")
    assert [one["backend"] for one in told["backends"]][:2] == ["tensorrt", "tensorrt-rtx"]
    assert all(one["refusal"] for one in told["backends"][:3])


def test_two_processes_at_once_build_one_engine(demo_copy, tmp_path, settings):
    twin = shutil.copytree(demo_copy, tmp_path / "twin" / "demo")
    command = [sys.executable, "-m", "tame_deploy", "compile", *RTX]
    environment = {**os.environ, **settings}
    both = [
        subprocess.Popen([*command, str(path)], env=environment, stdout=subprocess.PIPE, text=True)
        for path in (demo_copy, twin)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("compiled in" in text for text in said) == 1
    assert sum("found in the cache" in text for text in said) == 1
    plans = [path / "engines" / "tensorrt-rtx-fp32" / "model.plan" for path in (demo_copy, twin)]
    assert plans[0].read_bytes() == plans[1].read_bytes()
