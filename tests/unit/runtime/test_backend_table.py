"""A new backend is one entry of the table, and a file of its own."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tame_deploy import load
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.table import BACKENDS, backend_names, backend_spec, honours

DOCS = Path(__file__).parents[3] / "docs"

#: The file of a backend, and its entry; then what the rest of the package knows of it.
TOY = """
import json, sys
from tame_deploy.runtime.backends import table
from tame_deploy.runtime.backends.protocol import BackendOptions

def open_toy(artifact, options):
    from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
    backend = OnnxRuntimeBackend.of_artifact(artifact, BackendOptions(threads=options.threads))
    backend.name = "toy on abacus"
    return backend

toy = table.BackendSpec(
    name="toy", packages=("numpy",), extra="toy", honours=frozenset({"threads"}), open=open_toy
)
table.BACKENDS = (toy, *table.BACKENDS)

from typer.testing import CliRunner
from tame_deploy import load, open_artifact
from tame_deploy.cli.app import app
from tame_deploy.errors import InputError
from tame_deploy.runtime.selection.auto import prospects
from tame_deploy.runtime.selection.selection import open_backend

artifact = open_artifact(sys.argv[1])
found = {"prospects": [one.spec.name for one in prospects(artifact, BackendOptions())]}
with open_backend(artifact, "toy", BackendOptions(threads=1)) as backend:
    found["by name"] = backend.name
with open_backend(artifact) as backend:
    found["by auto"] = backend.name
try:
    open_backend(artifact, "toy", BackendOptions(streams=3))
except InputError as error:
    found["refused"] = str(error)
cli = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
found["doctor"] = json.loads(cli.invoke(app, ["doctor", "--json"]).stdout)
for command in ("explain", "evaluate", "verify", "serve-engine"):
    found[command] = cli.invoke(app, [command, "--backend", "none", "x"]).output
found["explains"] = cli.invoke(
    app, ["explain", sys.argv[1], sys.argv[2], "-o", sys.argv[3], "--backend", "toy"]
).output
found["load"] = load.__doc__
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_new_backend_is_one_entry(demo_export, tmp_path):
    picture = "tame_deploy/data/pictures/ring-1.png"
    done = subprocess.run(
        [sys.executable, "-c", TOY, demo_export, picture, tmp_path / "out"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["prospects"][0] == "toy"
    assert found["by name"] == found["by auto"] == "toy on abacus"
    assert found["refused"] == "streams has no meaning for backend toy"
    assert found["doctor"]["backends"][0]["title"] == found["doctor"]["chosen"] == "toy"
    for command in ("explain", "evaluate", "verify", "serve-engine"):
        assert "'toy'" in found[command], found[command]
    assert "with toy on abacus" in found["explains"]
    assert '"toy"' in found["load"]


def test_entries_honour_options_that_there_are():
    known = {field.name for field in fields(BackendOptions)}
    for spec in BACKENDS:
        assert spec.honours <= known, spec.name


def test_every_option_is_honoured_by_some_backend():
    for field in fields(BackendOptions):
        assert honours("auto", field.name)
    assert not honours("onnxruntime", "streams")


@pytest.mark.parametrize(
    ("providers", "title"),
    [
        (None, "onnxruntime (CPU)"),
        (("CPUExecutionProvider",), "onnxruntime (CPU)"),
        (("CUDAExecutionProvider", "CPUExecutionProvider"), "onnxruntime (CUDA)"),
        (("DmlExecutionProvider",), "onnxruntime (CPU)"),
    ],
)
def test_an_entry_of_several_is_found_by_its_provider(providers, title):
    assert backend_spec("onnxruntime", BackendOptions(providers=providers)).title == title


def test_the_documented_names_are_the_tables():
    documented = inspect.getdoc(load) or ""
    assert ", ".join(f'"{name}"' for name in backend_names()) in documented
    assert all(f"`{name}`" in (DOCS / "cli.md").read_text() for name in backend_names())


def test_the_page_lists_the_options_that_each_honours():
    table = (DOCS / "runtime.md").read_text().partition("| backend | taken where |")[2]
    rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith("| `")]
    written = {
        (name, "CUDA" in names): set(re.findall(r"`(\w+)`", options))
        for names, _, options in rows[:4]
        for name in re.findall(r"`(\S+)`", names)
    }
    assert written == {(spec.name, "CUDA" in spec.title): set(spec.honours) for spec in BACKENDS}
