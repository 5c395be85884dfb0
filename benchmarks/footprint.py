"""What the commands themselves cost: start-up, import, opening, export time and peak memory.

    python benchmarks/footprint.py
    python benchmarks/footprint.py --open PICTURE build/resnet50 build/resnet50-int8

With `--open`, only openings of artifacts are measured: fresh processes that import, open and
explain a picture. The first has an empty cache, so it holds a graph of lower precision to its
reference pictures; the later ones find the verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine_facts, write_results
from rich.console import Console
from rich.table import Table

CLI = [sys.executable, "-c", "from tame_deploy.cli import main; main()"]


def timed(command: list[str], times: int) -> dict[str, float]:
    """Return the median of wall seconds, after one run that fills the caches."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:])}


def watched(command: list[str]) -> dict[str, float]:
    """Return wall seconds and the peak of resident memory in GB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return {"seconds": time.perf_counter() - start, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


OPENED = """
import json, sys, time
started = time.perf_counter()
import tame_deploy
imported = time.perf_counter()
explainer = tame_deploy.load(sys.argv[1], backend="onnxruntime")
opened = time.perf_counter()
explainer.explain(sys.argv[2])
explained = time.perf_counter()
times = {"import": imported - started, "open": opened - imported, "explain": explained - opened}
print(json.dumps(times | {"cpu": time.process_time()}))
"""


def openings(artifact: str, picture: str, times: int = 5) -> dict[str, dict[str, float]]:
    """Return the first opening, and the median of the later ones, in seconds of a fresh process.

    "cpu" is the time of all processors together, which other work beside disturbs least.
    """
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(times + 1):
            start = time.perf_counter()
            ended = subprocess.run(
                [sys.executable, "-c", OPENED, artifact, picture],
                check=True,
                stdout=subprocess.PIPE,
                env={**os.environ, "TAME_DEPLOY_CACHE": cache},
            )
            wall = {"seconds": time.perf_counter() - start}
            found.append(wall | json.loads(ended.stdout))
    later = {name: statistics.median(one[name] for one in found[1:]) for name in found[0]}
    return {"first": found[0], "later": later}


def show_openings(picture: str, artifacts: list[str]) -> None:
    results = {Path(artifact).name: openings(artifact, picture) for artifact in artifacts}
    columns = ("seconds", "import", "open", "explain", "cpu")
    table = Table("artifact", "opening", *columns)
    for artifact, rows in results.items():
        for name, row in rows.items():
            table.add_row(artifact, name, *(f"{row[column]:.2f}" for column in columns))
    facts = machine_facts("tame-deploy", "onnxruntime", "numpy")
    path = write_results("opening", {"machine": facts, "artifacts": results})
    Console().print(table)
    Console().print(f"{facts['processor']}, {facts['cores']} cores; {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--open",
        nargs="+",
        metavar=("PICTURE", "ARTIFACT"),
        help="measure only how artifacts are opened, and explain this picture",
    )
    if asked := parser.parse_args().open:
        if len(asked) < 2:
            parser.error("--open takes a picture and at least one artifact")
        show_openings(asked[0], asked[1:])
        return
    measure_commands()


def measure_commands() -> None:
    results: dict[str, Any] = {
        "python -c pass": timed([sys.executable, "-c", "pass"], 9),
        "import numpy": timed([sys.executable, "-c", "import numpy"], 9),
        "import tame_deploy": timed([sys.executable, "-c", "import tame_deploy"], 9),
        "tame-deploy --help": timed([*CLI, "--help"], 9),
        "import torch": timed([sys.executable, "-c", "import torch"], 3),
    }
    with tempfile.TemporaryDirectory() as folder:
        for backbone in ("resnet50", "vgg16"):
            output = str(Path(folder) / backbone)
            arguments = ["-b", backbone, "--weights", "random", "--head", "random", "-o", output]
            results[f"export {backbone}, with parity"] = watched([*CLI, "export", *arguments])
    table = Table("command", "seconds", "peak memory")
    for name, row in results.items():
        peak = f"{row['peak_gb']:.2f} GB" if "peak_gb" in row else ""
        table.add_row(name, f"{row['seconds']:.2f}", peak)
    facts = machine_facts("tame-deploy", "torch", "numpy", "typer", "rich")
    path = write_results("footprint", {"machine": facts, "commands": results})
    console = Console()
    console.print(table)
    console.print(f"{facts['processor']}, {facts['cores']} cores; {path}")


if __name__ == "__main__":
    main()
