"""An ablation is one file; what is done is not done again."""

import pytest

from tame_deploy.ablation.study import merge, read_study, run_study
from tame_deploy.ablation.tables import study_markdown, study_rows
from tame_deploy.errors import InputError

STUDY = """
recipe = "demo"

[base]
data.train = "demo:32"
data.validation = "demo-held-out:8"
run.epochs = 1
run.batch_size = 8

[runs.whole]
[runs.last-layer]
model.layers = ["block4"]
[runs.no-skip]
model.variant = "no-skip"
[runs.no-variation]
loss.variation = 0

[evaluation]
data = "demo-held-out:4"
metrics = ["ad-ic"]
"""


def study(tmp_path, text=STUDY):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return read_study(path)


def test_runs_are_trained_scored_tabled_and_not_repeated(tmp_path):
    said = []
    rows = run_study(study(tmp_path), tmp_path / "runs", report=said.append)
    assert [row.name for row in rows] == ["whole", "last-layer", "no-skip", "no-variation"]
    assert rows[0].changes == ()
    assert rows[3].changes == ("loss.variation: 0.01 then, 0.0 now",)
    assert rows[1].parameters < rows[0].parameters
    headings, lines = study_rows(rows)
    assert headings[:3] == ["run", "parameters", "accuracy %"]
    assert len(lines) == 4
    markdown = study_markdown(rows)
    assert "- last-layer: model.layers" in markdown
    assert said.count("evaluating") == 4

    # A kill in the last evaluation: the file is torn. Only that run is scored again.
    (tmp_path / "runs" / "no-variation" / "evaluation.json").write_text('{"torn')
    before = (tmp_path / "runs" / "whole" / "last.ckpt").stat().st_mtime_ns
    said.clear()
    again = run_study(study(tmp_path), tmp_path / "runs", report=said.append)
    assert said.count("evaluating") == 1
    assert [row.scores for row in again] == [row.scores for row in rows]
    assert (tmp_path / "runs" / "whole" / "last.ckpt").stat().st_mtime_ns == before


def test_a_run_that_is_now_another_is_refused(tmp_path):
    one = STUDY.partition("[runs.last-layer]")[0] + '[evaluation]\nmetrics = ["ad-ic"]\nlimit = 2\n'
    run_study(study(tmp_path, one), tmp_path / "runs")
    changed = one.replace("run.epochs = 1", "run.epochs = 2")
    with pytest.raises(InputError, match="has another recipe .run.epochs: 1 then, 2 now"):
        run_study(study(tmp_path, changed), tmp_path / "runs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no runs"),
        ("recipe = 'demo'\n[runs]", "names no runs"),
        ("[runs.a]", "names no recipe"),
        ("recipe = 'demo'\nextra = 1\n[runs.a]", "unknown key extra; known: recipe, base"),
        ("recipe = 'demo'\n[runs.a]\nloss.aera = 1", "run a: .*did you mean loss.area"),
        ("recipe = 'demo'\n[runs.'../a']", "run '../a' cannot name a folder"),
        ("recipe = 'demo'\n[runs.a]\n[evaluation]\nx = 1", "unknown key evaluation.x"),
        ("recipe = 'demo'\n[runs.a]", "evaluation.data is missing"),
        ("recipe = 'demo'\nbase = 3\n[runs.a]", "base is 3; expected a table"),
        ("recipe = 'demo'\nevaluation = 3\n[runs.a]", "evaluation is 3; expected a table"),
        ("recipe = 'demo'\n[runs.a]\n[evaluation]\nlimit = 'x'", "evaluation.limit is 'x'"),
        ("recipe = 'demo'\n[runs.a]\n[evaluation]\ndata='x'\nlimit = 0", "at least 1"),
        ("recipe = 'demo'\n[runs.a]\n[evaluation]\ndata='demo:9'\nmetrics=['x']", "unknown metri"),
    ],
)
def test_what_is_wrong_with_a_study_is_said(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        study(tmp_path, text)


def test_changes_replace_values_and_keep_their_neighbours():
    table = {"loss": {"area": 1, "border": 2}, "run": {"seed": 0}}
    assert merge(table, {"loss": {"area": 3}}) == {
        "loss": {"area": 3, "border": 2}, "run": {"seed": 0},
    }  # fmt: skip
    assert table["loss"]["area"] == 1
