"""What `evaluate` and `compare` are told to look at: an artifact, a PyTorch network, or both."""

import json

import pytest
from typer.testing import CliRunner

from tame_deploy.cli.app import app
from tame_deploy.errors import InputError
from tame_deploy.runtime.selection import selection

PICTURES = ("--data", "demo-held-out:2", "--rows", "1", "--limit", "1")


def invoke(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "demo", "--backend", "auto"], "--backend is for an artifact's backend"),
        (["a", "--weights", "default"], "--weights has no meaning without --backbone"),
        (["a", "--head", "default"], "--head has no meaning without --backbone"),
        (["http://127.0.0.1:9/a", "--backend", "auto"], "no meaning for http.*; its server chose"),
    ],
)
def test_an_option_that_repeats_its_default_is_refused_where_it_would_do_nothing(
    arguments, message
):
    done = invoke("evaluate", *arguments, "--data", "demo:4")
    with pytest.raises(InputError, match=message):
        raise done.exception


def test_an_artifact_beside_its_backbone_is_opened_once(demo_export, tmp_path, monkeypatch):
    really_open, opened = selection.open_backend, []

    def counted(*arguments):
        opened.append(arguments)
        return really_open(*arguments)

    monkeypatch.setattr(selection, "open_backend", counted)
    done = invoke(
        "compare", demo_export, "--backbone", "demo", *PICTURES, "--backend", "onnxruntime",
        "--methods", "tame,grad-cam", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exception is None, done.output
    assert len(opened) == 1


def test_maps_of_another_head_do_not_stand_for_the_artifacts(demo_export, tmp_path):
    both = (demo_export, "--backbone", "demo", *PICTURES, "--backend", "onnxruntime")
    refused = invoke("compare", *both, "--methods", "tame-sigmoid", "-o", tmp_path / "no")
    with pytest.raises(InputError, match="tame-sigmoid needs the head .* name it with --head"):
        raise refused.exception
    chosen = ("--head", "default", "--methods", "tame-sigmoid")
    for name, arguments in (("beside", both), ("alone", both[1:-2])):
        done = invoke("compare", *arguments, *chosen, "-o", tmp_path / name)
        assert done.exception is None, done.output
    beside, alone = (
        json.loads((tmp_path / name / "tame-sigmoid.json").read_text())["metrics"]
        for name in ("beside", "alone")
    )
    drop = "average_drop_100"
    assert beside[drop]["mean"] == pytest.approx(alone[drop]["mean"], abs=0.1)
