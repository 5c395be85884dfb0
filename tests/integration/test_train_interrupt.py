"""Ctrl-C while training: the program ends with 130 and says what there is to go on from."""

import csv
import re
import signal
import threading

import pytest
import torch

from tame_deploy.training.device import deferred_interrupt
from tame_deploy.training.recipe import write_toml
from tests.command_line import run, signal_when
from tests.integration.test_training import recipe


def steps(folder):
    """Return the steps that the run has noted so far."""
    if not (folder / "metrics.csv").is_file():
        return []
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["split"] == "training"]


def test_ctrl_c_ends_a_run_with_130_wherever_it_comes_and_the_run_goes_on(tmp_path):
    folder, file = tmp_path / "a run", tmp_path / "recipe.toml"
    endless = recipe(run__epochs=10_000, run__workers=2, run__checkpoint_every=10**6)
    file.write_text(write_toml(endless))
    arguments = ["train", "--recipe", file, "-o", folder]

    def interrupted(happened):
        done = run(*arguments, expect=130, meanwhile=signal_when(happened, signal.SIGINT))
        said = done.stderr.strip().splitlines()[-1]
        if (folder / "last.ckpt").is_file():
            step = torch.load(folder / "last.ckpt", weights_only=True)["step"]
            assert f"the checkpoint of step {step} is {folder}/last.ckpt" in said
            assert steps(folder)[:step] == list(range(1, step + 1))
        else:
            assert "no checkpoint was written yet" in said
        assert re.search(f"tame-deploy train --resume -o '{re.escape(str(folder))}'", said)

    interrupted((folder / "recipe.toml").is_file)  # while maps are drawn and workers forked
    arguments = ["train", "--resume", "-o", folder]
    for least in (1, 6):  # within an epoch, and at its end
        # A step of this run: one that an earlier run noted says nothing of where this one is.
        wanted = max([least, *(step + 1 for step in steps(folder))])
        interrupted(lambda wanted=wanted: max(steps(folder), default=0) >= wanted)
    assert steps(folder)[-1] >= 6


def test_ctrl_c_before_anything_was_written_says_so(tmp_path):
    started = tmp_path / "started"
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def build():\n    pathlib.Path('started').touch()\n    time.sleep(60)\n"
    )
    done = run(
        "train", "-b", "slow:build", "--data", "demo:8", "-o", "run", cwd=tmp_path, expect=130,
        meanwhile=signal_when(started.is_file, signal.SIGINT),
    )  # fmt: skip
    assert done.stderr.strip() == "stopped: interrupted; nothing was written to run yet"


def test_the_first_ctrl_c_is_noted_the_second_one_raises_and_then_all_is_as_before(ctrl_c):
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_where_ctrl_c_is_ignored_or_never_comes_nothing_changes(ctrl_c):
    def look():
        with deferred_interrupt():
            found.append(signal.getsignal(signal.SIGINT))

    found = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    look()
    assert found == [signal.default_int_handler, signal.SIG_IGN]
