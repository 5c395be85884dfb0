"""Commands that are suggested can be pasted into a shell, whatever paths hold."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
from dataclasses import fields

import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.cli.export import export
from tame_deploy.cli.find_lr import find_lr
from tame_deploy.cli.train import export_command, train
from tame_deploy.errors import IncompatibleArtifactError
from tame_deploy.model.backbones import Preprocessing
from tame_deploy.runtime.backends.tensorrt.cuda import Device
from tame_deploy.runtime.backends.tensorrt.engines import choose_engine
from tame_deploy.training.checkpoints import RunFolder
from tame_deploy.training.recipe import ModelConfig
from tests.command_line import run
from tests.simulated.engines import write_engine


def suggested(text):
    """Return the words of the command in a text that ends with it."""
    return shlex.split(re.search(r"tame-deploy .*", text)[0])


@pytest.fixture
def spaced(demo_copy, tmp_path):
    return shutil.move(demo_copy, tmp_path / "my demo [1]")


@pytest.mark.slow
def test_after_a_calibration(spaced, tmp_path):
    shutil.copytree("tame_deploy/data/pictures", tmp_path / "some photos")
    done = run(
        "calibrate", spaced, "--images", "some photos", "--calibration-size", 4, cwd=tmp_path
    )
    assert suggested(done.stdout) == [
        *("tame-deploy", "quantize", str(spaced), "--images", "some photos"),
        *("-o", f"{spaced}-int8"),
    ]


def test_after_a_training(tmp_path):
    model = ModelConfig(
        backbone="demo", weights="my weights.pt", labels="my labels.txt", prefix_tokens=5,
        classes=6, task="multilabel", input="uint16", window="0,4095",
    )  # fmt: skip
    words = shlex.split(export_command(model, tmp_path / "a run" / "best.safetensors"))
    assert words[words.index("--weights") + 1] == "my weights.pt"
    assert words[words.index("--labels") + 1] == "my labels.txt"
    assert words[words.index("--prefix-tokens") + 1] == "5"
    assert words[words.index("--window") + 1] == "0,4095"
    assert words[words.index("--input") + 1] == "uint16"
    assert [words.count(option) for option in ("--classes", "--task")] == [1, 1]
    assert words[-2:] == ["--head", str(tmp_path / "a run" / "best.safetensors")]


def test_all_that_a_recipe_says_of_pictures_is_an_option_of_the_export(tmp_path):
    said = Preprocessing(
        image_size=(64, 32), resize=70, crop="pad", interpolation="bicubic", rescale="unit",
        mean=(0.5,), std=(0.2,), channel_order="rgb", pad_level=114, input="uint16", window="own",
    )  # fmt: skip
    values = {item.name: getattr(said, item.name) for item in fields(said)}
    assert None not in values.values()
    words = shlex.split(export_command(ModelConfig(backbone="demo", **values), tmp_path))
    known = inspect.signature(export).parameters
    for name in values:
        assert f"--{name.replace('_', '-')}" in words
        assert name in known or (name, "graph_input" in known) == ("input", True)


@pytest.mark.parametrize("command", [train, find_lr])
def test_training_takes_the_options_that_refusals_name(command):
    named = {"task", "outputs", "classes", "prefix_tokens", "transform_input", "trust_remote_code"}
    assert named <= inspect.signature(command).parameters.keys()


def test_after_a_training_that_was_interrupted(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    run_folder = RunFolder(folder)
    run_folder.recipe.write_text("")
    assert suggested(run_folder.how_to_resume())[-2:] == ["-o", str(folder)]


def test_where_an_engine_is_missing_or_for_another_gpu(spaced):
    artifact, here = open_artifact(spaced), Device(0, "GPU", (9, 0), 1 << 30, (13, 0))
    with pytest.raises(IncompatibleArtifactError) as told:
        choose_engine(artifact, "tensorrt", "10.13.2", here)
    assert suggested(str(told.value))[:3] == ["tame-deploy", "compile", str(spaced)]
    write_engine(spaced)
    with pytest.raises(IncompatibleArtifactError) as told:
        choose_engine(artifact, "tensorrt", "10.13.2", here)
    assert suggested(str(told.value))[:3] == ["tame-deploy", "compile", str(spaced)]
