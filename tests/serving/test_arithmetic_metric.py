"""The metrics say what a model was made for, and whether this processor was held to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.runtime.backends.processor import instruction_sets
from tame_deploy.serving.statistics import Metrics, ModelStatistics


@pytest.mark.parametrize(
    ("changes", "reference", "expected"),
    [
        ({}, True, 'made_for="any processor",model="demo",verified="unneeded"'),
        (
            {"precision": "int8", "target": "cpu"},
            True,
            'made_for="CPUs",model="demo",verified="yes"',
        ),
        (
            {"precision": "int8", "target": "cpu-vnni"},
            False,
            'made_for="CPUs with vnni",model="demo",verified="no"',
        ),
    ],
)
def test_a_scrape_says_it(demo_export, changes, reference, expected):
    artifact = open_artifact(demo_export)
    files = dict(artifact.manifest.files)
    if not reference:
        del files["parity.npz"]
    artifact = replace(artifact, manifest=replace(artifact.manifest, files=files, **changes))
    statistics = ModelStatistics(name="demo", metrics=Metrics())
    for _ in range(2):  # opened anew, it is told once
        statistics.started("onnxruntime on CPU", artifact, accepted=int, waiting=int)
    lines = [
        line
        for line in statistics.metrics.text().decode().splitlines()
        if line.startswith("tame_model_arithmetic{")
    ]
    sets = " ".join(instruction_sets())
    assert lines == [f'tame_model_arithmetic{{instruction_sets="{sets}",{expected}}} 1.0']
