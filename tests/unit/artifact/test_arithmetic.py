"""What quantization.json says of arithmetic is read, and not believed."""

import json
from dataclasses import asdict, replace

import pytest

from tame_deploy.artifact.arithmetic import ArithmeticReport, Figures, read_arithmetic
from tame_deploy.artifact.directory import Artifact, open_artifact
from tame_deploy.cli.screen import describe_arithmetic
from tame_deploy.errors import ManifestError

FOUND = ArithmeticReport(
    layers=3,
    may_saturate=("backbone/a", "backbone/b"),
    pictures=16,
    exact=Figures(top1=0.98, iou15=0.95, pearson5=0.997),
    saturating=Figures(top1=0.85, iou15=0.62, pearson5=0.74),
)


@pytest.fixture
def recorded(demo_copy):
    """Return a function that gives an artifact with a text in its quantization.json."""
    artifact = open_artifact(demo_copy)
    files = {**artifact.manifest.files, "quantization.json": ""}
    artifact = Artifact(demo_copy, replace(artifact.manifest, files=files))

    def write(text):
        (demo_copy / "quantization.json").write_text(text)
        return artifact

    return write


def test_a_record_is_read_back(recorded, demo_copy):
    assert read_arithmetic(recorded(json.dumps({"arithmetic": asdict(FOUND)}))) == FOUND
    assert read_arithmetic(recorded('{"plan": {}}')) is None  # as earlier versions wrote it
    assert read_arithmetic(open_artifact(demo_copy)) is None  # float32


@pytest.mark.parametrize(
    "text", ["[]", '{"arithmetic": 3}', '{"arithmetic": {"layers": 3}}', "{", "\ud800"]
)
def test_a_malformed_record_is_refused(recorded, text):
    artifact = recorded("")
    artifact.file("quantization.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ManifestError, match=r"quantization\.json"):
        read_arithmetic(artifact)


def test_it_says_what_processors_without_vnni_would_make_of_it():
    assert describe_arithmetic(FOUND) == (
        "3 layers on integers; without VNNI 2 may saturate, on 16 pictures: top-1 0.980 -> 0.850, "
        "IoU 15 % 0.950 -> 0.620, Pearson 5th 0.997 -> 0.740"
    )
    alike = replace(FOUND, may_saturate=(), pictures=0, saturating=FOUND.exact)
    assert "the same on every processor" in describe_arithmetic(alike)
