"""Shared fixtures: small networks, one exported demo, and real data where it is at hand."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.once import made_once


def keep_to_its_cores(worker: str, workers: int) -> None:
    """Have one of several test processes, and what it starts, take its share of the cores.

    All would otherwise have as many threads as there are cores, which wait for each other by
    spinning: a third more processor time for the same tests.
    """
    share = max(1, (os.cpu_count() or 1) // workers)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        first = int(worker.removeprefix("gw")) * share % len(cores)
        os.sched_setaffinity(0, cores[first : first + share])
    os.environ["OMP_NUM_THREADS"] = str(share)
    torch.set_num_threads(share)


if "PYTEST_XDIST_WORKER" in os.environ:
    keep_to_its_cores(
        os.environ["PYTEST_XDIST_WORKER"], int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    )

#: Real weights, pictures and golden values lie outside the repository; see CONTRIBUTING.md.
SHARED = Path(os.environ.get("TAME_DEPLOY_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TAME_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def shared_file(name: str) -> Path:
    """Return a file of the shared data, or skip the test."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} (set TAME_DEPLOY_SHARED)")
    return path


#: Graph contracts unlike the usual one that tests of other stages share.
OTHER_CONTRACTS = (
    {"explain": "predicted", "top_k": 2, "input": "float32"},
    {"explain": "all", "input": "float32", "maps": "logits"},
    {"maps": "sigmoid"},
)


class TinyNet(nn.Module):
    """A classifier with four stages of chosen widths; each halves the picture."""

    def __init__(self, num_classes: int = 5, widths: tuple[int, ...] = (4, 6, 8, 5)) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.unused = nn.Conv2d(3, 3, 1)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            images = torch.relu(stage(images))
        return self.classifier(images.mean((2, 3)))


@pytest.fixture(scope="session")
def demo_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the demo's artifact with export options, exported once each.

    An export takes seconds, so tests share few choices of options. They must not write to it.
    """

    def export(output: Path, options: dict[str, object]) -> None:
        from tame_deploy.export.artifact_export import export_artifact
        from tame_deploy.export.options import ExportOptions
        from tame_deploy.model.backbones import BackboneRequest, load_backbone
        from tame_deploy.model.network import HeadRequest, build_network

        network = build_network(load_backbone(BackboneRequest("demo")), HeadRequest())
        export_artifact(network, output / "demo", ExportOptions(**options))

    def exported(**options: object) -> Path:
        name = "-".join(["demo", *(f"{key}={value}" for key, value in sorted(options.items()))])
        return made_once(tmp_path_factory, name, lambda output: export(output, options)) / "demo"

    return exported


@pytest.fixture(scope="session")
def demo_export(demo_with: Callable[..., Path]) -> Path:
    """Return the demo's artifact, exported once; tests must not write to it."""
    return demo_with()


@pytest.fixture
def demo_copy(demo_export: Path, tmp_path: Path) -> Path:
    """Return a copy of the demo's artifact that a test may spoil."""
    return Path(shutil.copytree(demo_export, tmp_path / "demo"))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Have Python's own answer to SIGINT, which shells make background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
