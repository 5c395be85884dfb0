"""How far a build is, as the bar shows it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tame_deploy.engine.progress import BuildProgress


def followed(layers=()):
    told = []
    return BuildProgress(lambda share, words: told.append((share, words)), layers), told


def test_a_phase_with_a_step_for_each_layer_names_it():
    progress, told = followed(["conv_1", "relu_2"])
    progress.start("Building", None, 4)
    progress.start("Timing", "Building", 2)
    assert told[-1] == (0.0, "Timing: conv_1")
    assert progress.step("Timing", 0)
    assert told[-1] == (0.125, "Timing: relu_2")
    progress.step("Timing", 1)
    progress.finish("Timing")
    progress.step("Building", 0)
    assert told[-1] == (0.25, "Building")


def test_a_cancelled_build_is_told_at_the_next_step():
    progress, _ = followed()
    progress.start("Building", None, 2)
    assert progress.step("Building", 0)
    progress.cancelled.set()
    assert not progress.step("Building", 1)


def test_a_bar_that_breaks_does_not_stop_the_build():
    def broken(share, words):
        raise OSError("no screen")

    progress = BuildProgress(broken)
    progress.start("Building", None, 1)
    assert progress.step("Building", 0)
    progress.finish("unknown")
    progress.finish("Building")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["start", "step", "finish"]))))
def test_the_share_never_falls_whatever_the_builder_calls(events):
    progress, told = followed()
    for name, event in events:
        if event == "start":
            progress.start(name, None, 3)
        elif event == "step":
            progress.step(name, 1)
        else:
            progress.finish(name)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
