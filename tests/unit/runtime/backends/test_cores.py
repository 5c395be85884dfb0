"""Threads follow the affinity mask and the container's quota, and not the host's processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tame_deploy.runtime.backends import cores
from tame_deploy.runtime.explain.load import load
from tame_deploy.serving.model import ServedModel
from tame_deploy.serving.options import ModelOptions
from tame_deploy.serving.statistics import Metrics, ModelStatistics

CASES = json.loads((Path(__file__).parents[3] / "golden" / "cores.json").read_text())

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks"
)


@pytest.fixture
def on_one_processor():
    """Run the test, and the threads that it starts, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_quota_is_the_least_of_the_cgroups(tmp_path, case):
    for name, text in case["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    process = tmp_path / "self"
    process.mkdir()
    (process / "cgroup").write_text(case["cgroup"])
    (process / "mountinfo").write_text(case["mountinfo"].replace("ROOT", str(tmp_path)))
    assert cores.cpu_quota(process) == case["quota"]


def test_a_system_without_cgroups_has_no_quota(tmp_path):
    assert cores.cpu_quota(tmp_path / "nothing") is None


def test_hardware_threads_of_a_core_count_once(tmp_path, monkeypatch):
    for number in range(6):
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 3},{number % 3 + 3}\n")
    monkeypatch.setattr(cores, "_PROCESSORS", tmp_path)
    monkeypatch.setattr(cores, "_affinity", lambda: frozenset({0, 1, 3, 4, 9}))
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    assert (cores.usable_processors(), cores.usable_cores()) == (5, 3)


@pytest.mark.parametrize(
    ("quota", "expected"), [(None, 4), (0.01, 1), (0.5, 1), (1.0, 1), (1.5, 2), (64.0, 4)]
)
def test_part_of_a_processor_counts_as_a_whole_one(monkeypatch, quota, expected):
    monkeypatch.setattr(cores, "_affinity", lambda: frozenset(range(4)))
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert cores.usable_processors() == expected


def test_on_a_whole_machine_libraries_choose_by_themselves(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(cores, "_affinity", lambda: frozenset({0, 1}))
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    assert cores.threads_for(None) is None
    monkeypatch.setattr(cores, "cpu_quota", lambda: 1.0)
    assert cores.threads_for(None) == 1


@needs_affinity
def test_the_affinity_mask_counts(on_one_processor):
    assert cores.usable_processors() == cores.usable_cores() == 1


def test_more_threads_than_processors_are_warned_of_once(monkeypatch, caplog):
    monkeypatch.setattr(cores, "_affinity", lambda: frozenset({0, 1}))
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    cores._warn_once.cache_clear()
    assert [cores.threads_for(asked) for asked in (1, 2)] == [1, 2]
    assert not caplog.records
    assert [cores.threads_for(64) for _ in range(2)] == [64, 64]
    (told,) = caplog.messages
    assert told.startswith("found threads 64 where this process may use 2 processors")
    assert told.endswith("leave threads out, or ask for at most 2")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_with_half_a_processor_a_backend_has_one_thread(demo_export, monkeypatch, backend):
    pytest.importorskip(backend)
    monkeypatch.setattr(cores, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with load(demo_export, backend=backend) as explainer:
        if backend == "onnxruntime":
            found = explainer.backend._session.get_session_options().intra_op_num_threads
        else:
            found = explainer.backend._compiled.get_property("INFERENCE_NUM_THREADS")
    assert found == 1


def test_a_server_decodes_with_as_many_threads_as_it_has_processors(demo_export, monkeypatch):
    monkeypatch.setattr(cores, "cpu_quota", lambda: 0.5)
    with load(demo_export, backend="onnxruntime", threads=1) as explainer:
        statistics = ModelStatistics(name="demo", metrics=Metrics())
        served = ServedModel(explainer, ModelOptions(), statistics)
        assert served._pool._max_workers == 1


#: ONNX Runtime pins its threads, to processors outside the mask as well, unless told how many.
EXPLAIN = """
import os, sys
mask = {min(os.sched_getaffinity(0))}
os.sched_setaffinity(0, mask)
from tame_deploy import load
with load(sys.argv[1], backend=sys.argv[2]) as explainer:
    explainer.predictor.warm_up(2)
    for thread in os.listdir("/proc/self/task"):
        assert os.sched_getaffinity(int(thread)) == mask
"""


@needs_affinity
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_all_threads_stay_on_one_processor_without_a_warning(demo_export, backend):
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", EXPLAIN, demo_export, backend],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
