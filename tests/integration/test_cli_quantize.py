import json
import re
import shutil

import pytest

from tame_deploy.runtime.backends.processor import processor_and_sets
from tests.command_line import one_line, run, run_here


@pytest.fixture
def settings(tmp_path):
    return {"TAME_DEPLOY_CACHE": str(tmp_path / "cache")}


PICTURES = ("--images", "demo:60", "--calibration-size", 16)


@pytest.fixture(scope="module")
def calibrated(demo_export, tmp_path_factory):
    """Return the demo's artifact in a place with a space, and what `calibrate` said of it."""
    demo = tmp_path_factory.mktemp("quantized") / "my demo"
    shutil.copytree(demo_export, demo)
    return demo, run("calibrate", demo, *PICTURES)


@pytest.fixture(scope="module")
def quantized(calibrated):
    """Return the quantized artifact, and what `quantize` said of it."""
    demo, _ = calibrated
    small = demo.with_name("small")
    done = run(
        "quantize", demo, *PICTURES, "--recovery", "equalize,bias", "-o", small,
        "--allow-low-fidelity",
    )  # fmt: skip
    return small, done


def test_from_calibration_to_a_quantized_artifact(calibrated, quantized, tmp_path, settings):
    demo, done = calibrated
    assert "calibrated" in done.stdout
    assert f"tame-deploy quantize '{demo}' --images demo:60 -o '{demo}-int8'" in done.stdout
    assert (demo / "calibration.json").is_file()
    small, done = quantized
    for words in ("equalize", "top-1 agreement", "IoU of the top 15 %", "batch 8", "before-after"):
        assert words in done.stdout, words
    assert "other pictures" not in done.stderr
    shown = run("inspect", small).stdout
    assert "int8 for cpu" in shown
    assert "map Pearson, 5th percentile" in shown
    assert "every output as in PyTorch" not in run("verify", small, env=settings).stdout
    run("explain", small, "tame_deploy/data/pictures", "-o", tmp_path / "explained", env=settings)
    again = ["quantize", small, "--images", "demo:60", "-o", tmp_path / "x"]
    refused = run_here(*again, expect=1)
    one_line(refused)
    assert "int8 for cpu already" in refused.stderr


def test_it_is_told_whether_it_is_verified_on_this_processor(quantized, tmp_path, settings):
    small, _ = quantized

    def by_onnxruntime():
        backends = json.loads(run("doctor", small, "--json", env=settings).stdout)["backends"]
        return next(one for one in backends if one["title"] == "onnxruntime (CPU)")["arithmetic"]

    assert by_onnxruntime() == "not yet verified here"
    run(
        "explain", small, "tame_deploy/data/pictures", "--backend", "onnxruntime",
        "-o", tmp_path / "explained", env=settings,
    )  # fmt: skip
    assert by_onnxruntime().startswith("verified here: logits off by ")
    shown = run("inspect", small, env=settings).stdout
    assert processor_and_sets() in shown
    assert re.search(r"made for .* CPUs", shown)
    assert re.search(r"onnxruntime [^ ]+: verified here: logits off by \d", shown)
    assert re.search(r"made for +CPUs", run("doctor", small, env=settings).stdout)
    timed = run(
        "benchmark", small, "--backend", "onnxruntime", "--batch", 1, "--rounds", 1, "--seconds",
        0, "--no-footprint", "--no-relatives", "--json", env=settings,
    )  # fmt: skip
    found = json.loads(timed.stdout)
    assert found["machine"]["processor"] == processor_and_sets()
    assert found["rows"][0]["arithmetic"].startswith("made for CPUs, verified here: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "nowhere"], "no data at nowhere"),
        (["--images", "demo:40"], "expected 128"),
        (["--images", "demo:130"], "expected at least 32"),
        (["--images", "demo:300", "--floor", "iou=1"], "--floor has 'iou=1'"),
        (["--images", "demo:300", "--recovery", "pray"], "--recovery has 'pray'"),
        (["--images", "demo:300", "--precision", "int8+fp16"], "for --target tensorrt"),
        (["--images", "demo:300", "--precision", "fp16", "--budget", "9"], "needs no trials"),
        (["--images", "demo:300", "--precision", "fp16", "--budget", "300"], "needs no trials"),
    ],
)
def test_what_cannot_be_done_is_one_line(demo_export, tmp_path, arguments, words):
    done = run_here("quantize", demo_export, *arguments, "-o", tmp_path / "out", expect=1)
    one_line(done)
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_target_is_a_usage_error(demo_export):
    done = run_here("quantize", demo_export, "--images", "demo:99", "--target", "tpu", expect=2)
    assert "cpu" in done.stderr
    assert "tensorrt" in done.stderr
