"""What the commands themselves cost: start-up, import, export time and peak memory.

python benchmarks/footprint.py
"""

from __future__ import annotations

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


def main() -> None:
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
