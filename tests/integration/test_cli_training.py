"""Training and evaluation from the command line."""

import csv
import json

import pytest
from typer.testing import CliRunner

from tests.command_line import one_line, run

QUICK = [
    "--data", "demo:32", "--validation", "demo-held-out:8", "--epochs", "1", "--batch-size", "8",
    "--set", "run.workers=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = run("train", "--recipe", "demo", *QUICK, "-o", "runs/demo", cwd=folder)
    return folder, done


def test_from_data_to_a_scored_artifact(trained):
    """The README's way from training to metrics, in its order."""
    folder, done = trained
    assert "trained 4 steps" in done.stdout
    assert "epoch 1/1: validation loss" in done.stderr
    head = "runs/demo/head-best.safetensors"
    assert f"tame-deploy export --backbone demo --head {head}" in done.stdout
    run("export", "--backbone", "demo", "--head", head, cwd=folder)
    arguments = ["--data", "demo-held-out:4", "--metrics", "ad-ic,localisation"]
    done = run("evaluate", "build/demo", *arguments, cwd=folder)
    assert "AD 100 % ↓" in done.stdout
    assert "pointing game % ↑" in done.stdout
    stored = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert stored["pictures"] == 4
    assert {path.name for path in (folder / "evaluation").iterdir()} == {
        "evaluation.json", "evaluation-pictures.csv", "evaluation.png",
    }  # fmt: skip
    again = run("evaluate", "build/demo", *arguments, cwd=folder, expect=1)
    assert "is not empty; pass --overwrite" in again.stderr


def test_a_comparison_prints_the_papers_table(trained):
    folder, _ = trained
    done = run(
        "compare", "--backbone", "demo", "--data", "demo-held-out:4", "--rows", "2",
        "--methods", "tame,grad-cam,random", "--limit", "3", cwd=folder,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    methods = [line[0] for line in lines if line and line[0] in ("tame", "grad-cam", "random")]
    assert methods == ["tame", "grad-cam", "random"]
    assert (folder / "comparison" / "grid.jpg").is_file()


def test_the_range_test_prints_a_rate_and_draws_a_plot(trained):
    folder, _ = trained
    done = run(
        "find-lr", "--recipe", "demo", "--data", "demo:40", "--batch-size", "4", "--steps", "50",
        "--set", "run.workers=0", "-o", "lr.png", cwd=folder,
    )  # fmt: skip
    assert "suggested --lr " in done.stdout
    assert (folder / "lr.png").is_file()


def test_an_ablation_prints_and_writes_its_table(trained):
    folder, _ = trained
    (folder / "study.toml").write_text(
        'recipe = "demo"\n[base]\ndata.train = "demo:16"\ndata.validation = "demo-held-out:8"\n'
        "run.epochs = 1\nrun.batch_size = 8\n[runs.one]\n[runs.two]\nloss.area = 1\n"
        '[evaluation]\nmetrics = ["ad-ic"]\nlimit = 2\n'
    )
    done = run("ablate", "study.toml", "-o", "ablation", cwd=folder)
    assert "run 2/2: two" in done.stderr
    assert "- two: loss.area: 2.0 then, 1.0 now" in (folder / "ablation/ablation.md").read_text()


def test_a_resumed_run_needs_no_more_than_its_folder(trained):
    folder, _ = trained
    done = run("train", "--resume", "-o", "runs/demo", cwd=folder)
    assert "finished already, 4 steps" in done.stdout
    done = run("train", "--resume", "-o", "runs/demo", "--lr", "1", cwd=folder, expect=1)
    assert "another recipe (optimizer.max_lr: 0.002 then, 1.0 now)" in one_line(done)
    with (folder / "runs/demo/metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "found neither --recipe nor --backbone"),
        (["train", "--recipe", "demo", "--resume", "--overwrite"], "both --resume and --overw"),
        (["train", "--recipe", "demo", "--set", "area=1"], "expected section.key=value"),
        (["train", "--recipe", "demo", "--set", "loss.aera=1"], "did you mean loss.area"),
        (["train", "--recipe", "demo", "--set", "loss.area=big"], "loss.area is 'big'; expected a"),
        (["train", "--recipe", "demo", "--backbone", "vgg61"], "unknown backbone 'vgg61'"),
        (["train", "--resume", "-o", "nowhere"], "there is no run to resume in nowhere"),
        (["evaluate", "--data", "x"], "found neither an artifact nor --backbone"),
        (["evaluate", "a", "--backbone", "demo", "--data", "x"], "both an artifact and --back"),
        (["evaluate", "--backbone", "demo"], "found no --data"),
        (
            ["evaluate", "--backbone", "demo", "--data", "demo:4", "--metrics", "x"],
            "unknown metric",
        ),
        (["evaluate", "nowhere", "--data", "demo:4"], "nowhere"),
        (["compare", "--backbone", "demo", "--data", "demo:4", "--methods", "x"], "unknown method"),
        (["evaluate", "--backbone", "demo", "--provider", "x", "--data", "x"], "--provider is for"),
        (["evaluate", "a", "--head", "x", "--data", "x"], "--head has no meaning without --backb"),
        (["evaluate", "--backbone", "demo", "--device", "cuda", "--data", "demo:4"], "no CUDA dev"),
        (["train", "--recipe", "demo", "--precision", "16-mixed"], "16-mixed needs a GPU"),
        (["ablate", "nowhere.toml"], "cannot read nowhere.toml"),
        (["find-lr", "--recipe", "demo", "--lowest", "2", "--highest", "1"], "found rates 2.0 to"),
    ],
)
def test_commands_that_cannot_be_honoured_say_why(arguments, message, tmp_path, monkeypatch):
    from tame_deploy.cli.app import app

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert message in str(done.exception)
    assert done.exit_code == 1
    assert not any(tmp_path.iterdir())
