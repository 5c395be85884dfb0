"""Benchmarks: who is measured, in which order, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tame_deploy.artifact.directory import open_artifact, write_manifest
from tame_deploy.benchmark.candidates import Candidate, candidates_of, plain_graph, relatives
from tame_deploy.benchmark.memory import measure_footprint
from tame_deploy.benchmark.result import Benchmark, Row, pareto
from tame_deploy.benchmark.rounds import Timing, measure
from tame_deploy.benchmark.run import BenchmarkOptions, run_benchmark
from tame_deploy.errors import BackendError, InputError
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.selection.selection import open_backend
from tests.command_line import one_line, run
from tests.unit.runtime.backends.test_tensorrt import feeds_of


def on(path, backend="onnxruntime"):
    artifact = open_artifact(path)
    options = BackendOptions(threads=1)
    precision = artifact.manifest.precision
    return Candidate(artifact=artifact, backend=backend, precision=precision, options=options)


def test_the_classifier_alone_gives_the_same_logits(demo_export):
    artifact, feeds = open_artifact(demo_export), feeds_of(demo_export, 2)
    assert len(plain_graph(artifact)) < artifact.model.stat().st_size
    with open_backend(artifact, "onnxruntime") as whole:
        expected = whole.run(feeds)["logits"]
    with on(demo_export).without_explanation().open() as plain:
        found = plain.run({"images": feeds["images"]})
    assert set(found) == {"logits"}
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)


def test_candidates_are_all_that_can_run_it(demo_export):
    artifact = open_artifact(demo_export)
    names = {candidate.backend for candidate in candidates_of(artifact, 1, ())}
    assert "onnxruntime" in names
    assert {one.backend for one in candidates_of(artifact, 1, ("onnxruntime",))} == {"onnxruntime"}
    with pytest.raises(InputError, match="nothing here runs .* tensorrt; .*doctor says why"):
        candidates_of(artifact, None, ("tensorrt",))


def test_relatives_are_those_made_of_it(demo_copy, tmp_path):
    artifact = open_artifact(demo_copy)
    assert relatives(artifact) == []
    child, stranger = tmp_path / "child", tmp_path / "stranger"
    for path, parents in ((child, (f"demo {artifact.manifest.identity()}",)), (stranger, ())):
        path.mkdir()
        for name in artifact.manifest.files:
            (path / name).write_bytes(artifact.file(name).read_bytes())
        write_manifest(replace(artifact.manifest, parents=parents).with_identity(), path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    assert [one.path.name for one in relatives(artifact)] == ["child"]


def test_each_is_opened_once_a_round_and_alone(demo_export, monkeypatch):
    candidates = [on(demo_export), on(demo_export).without_explanation()]
    open_now, order = [], []
    really_open = Candidate.open

    class Watched:
        def __init__(self, candidate):
            self.candidate, self.backend = candidate, really_open(candidate)
            self.inputs, self.max_batch = self.backend.inputs, self.backend.max_batch
            self.run = self.backend.run

        def __enter__(self):
            open_now.append(self)
            assert len(open_now) == 1
            order.append(self.candidate.plain)
            return self

        def __exit__(self, *_):
            open_now.remove(self)
            self.backend.close()

    def opens(candidate):
        return Watched(candidate)

    monkeypatch.setattr(Candidate, "open", opens)
    timings = measure(candidates, 2, rounds=6, seconds=0)
    assert sorted(order) == [False] * 6 + [True] * 6
    assert order != [False, True] * 6  # drawn anew
    for timing in timings:
        assert len(timing.medians) == 6
        assert len(timing.milliseconds) == 18
        assert timing.percentile(50) <= timing.percentile(99)
        assert timing.throughput == pytest.approx(2000 / timing.median)


def test_what_fails_is_told_and_the_rest_goes_on(demo_export, monkeypatch):
    broken = on(demo_export).without_explanation()
    really_open = Candidate.open

    def opens(self):
        if self.plain:
            raise BackendError("no more memory")
        return really_open(self)

    monkeypatch.setattr(Candidate, "open", opens)
    good, bad = measure([on(demo_export), broken], 1, rounds=2, seconds=0)
    assert good.failure is None
    assert bad.failure == "no more memory"
    row = Row(good, bad, None)
    assert row.overhead is None
    assert Row(bad, None, None).to_dict()["failure"] == "no more memory"


def test_memory_is_that_of_a_process_of_its_own(demo_export):
    ballast = np.ones(200 << 17)  # 200 MiB here, which a child must not be charged with
    found = measure_footprint(on(demo_export), 1)
    assert 20 < found.peak_mib < 190, ballast.nbytes
    assert 0 < found.first_answer_s < 60


def timing_of(path, *medians):
    return Timing(candidate=on(path), batch=1, milliseconds=medians, medians=medians)


def test_a_noisy_machine_is_called_one(demo_export):
    steady = Row(timing_of(demo_export, 10.0, 10.1, 10.2), None, None)
    noisy = Row(timing_of(demo_export, 10.0, 15.0, 20.0), None, None)
    assert Benchmark((steady, noisy), {}).noisy == [noisy]
    by_its_plain = Row(steady.timing, noisy.timing, None)
    assert Benchmark((by_its_plain,), {}).noisy == [by_its_plain]


def test_bfloat16_of_the_backends_doing_has_no_fidelity(demo_export):
    exact = Row(timing_of(demo_export, 1.0), None, None)
    assert exact.map_fidelity == 1.0
    candidate = replace(exact.timing.candidate, precision="bf16")
    assert Row(replace(exact.timing, candidate=candidate), None, None).map_fidelity is None


def test_the_pareto_line_has_what_nothing_beats():
    assert pareto([(1, 1.0), (2, 0.9), (1.5, 0.8), (3, 0.5), (3, 0.4)]) == [
        (1, 1.0),
        (2, 0.9),
        (3, 0.5),
    ]


def test_numbers_outside_their_range_are_refused():
    for wrong in ({"batches": ()}, {"batches": (0,)}, {"rounds": 0}, {"seconds": -1}):
        with pytest.raises(InputError):
            BenchmarkOptions(**wrong)
    with pytest.raises(InputError, match="unknown backend abacus"):
        BenchmarkOptions(backends=("abacus",))


def test_progress_counts_every_step(demo_export):
    steps = []
    options = BenchmarkOptions(
        batches=(1, 2),
        threads=1,
        backends=("onnxruntime",),
        rounds=2,
        seconds=0,
        relatives=False,
        footprint=False,
    )
    found = run_benchmark(open_artifact(demo_export), options, lambda *now: steps.append(now))
    assert len(steps) == steps[0][1] == 8
    assert [row.timing.batch for row in found.rows] == [1, 2]
    assert all(row.overhead > 0 for row in found.rows)


def test_the_command_writes_a_table_json_markdown_and_a_plot(demo_export, tmp_path):
    folder = tmp_path / "out"
    quick = ("--backend", "onnxruntime", "--seconds", 0, "--rounds", 2, "--batch", 1)
    done = run("benchmark", demo_export, *quick, "--no-relatives", "-o", folder)
    for words in ("explanation costs", "onnxruntime", "fp32", "map IoU 15 %"):
        assert words in done.stdout, words
    found = json.loads((folder / "benchmark.json").read_text())
    (row,) = found["rows"]
    assert row["p50_ms"] > 0
    assert row["over_plain_classifier"] > 0
    assert row["peak_mib"] > 10
    assert "| onnxruntime | fp32 |" in (folder / "benchmark.md").read_text()
    with Image.open(folder / "benchmark.png") as plot:
        assert plot.width > 400
    told = json.loads(
        run("benchmark", demo_export, *quick, "--no-footprint", "--no-relatives", "--json").stdout
    )
    assert told["rows"][0]["peak_mib"] is None
    one_line(run("benchmark", demo_export, *quick, "-o", folder, expect=1))
