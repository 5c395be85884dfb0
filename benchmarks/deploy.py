"""What it takes to deploy: the serving install's size, the cold start, and memory over time.

    python benchmarks/deploy.py                     # demo and resnet50; 20,000 explanations

The environment is made anew from this checkout with the extra `cpu` and nothing else, so nothing
here can lean on torch. A cold start is the time from starting Python to the first explanation of a
picture file, on files that were read before. Memory is resident, by /proc.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine_facts, write_results
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "tame_deploy" / "data" / "pictures" / "ring-1.png"

_FIRST = """
import sys
from tame_deploy import load
with load(sys.argv[1], backend="onnxruntime") as explainer:
    explainer.explain(sys.argv[2])
"""

_MANY = """
import json, sys
import numpy as np
from PIL import Image
from tame_deploy import load

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024

picture, count, seen = np.asarray(Image.open(sys.argv[2]).convert("RGB")), int(sys.argv[3]), []
with load(sys.argv[1], backend="onnxruntime") as explainer:
    stream = explainer.stream((picture for _ in range(count)), batch_size=8)
    for one in stream:
        if one.index % (count // 20) == 0:
            seen.append(resident())
assert "torch" not in sys.modules
print(json.dumps(seen))
"""


def make_environment(folder: Path) -> Path:
    """Install core and `cpu` into a new environment; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", f"{ROOT}[cpu]"]
    subprocess.run(command, check=True)
    return python


def installed(python: Path) -> tuple[float, list[str]]:
    """Return the MB of an environment's packages, without pip's own, and their names."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )
    names = [one["name"] for one in json.loads(listed.stdout) if one["name"] not in _NOT_OURS]
    (packages,) = python.parent.parent.glob("lib/python*/site-packages")
    size = sum(
        path.stat().st_size
        for path in packages.rglob("*")
        if path.is_file() and path.relative_to(packages).parts[0].split("-")[0] not in _NOT_OURS
    )
    return size / 1e6, names


_NOT_OURS = ("pip", "setuptools", "_distutils_hack")


def cold_starts(python: Path, artifact: Path, count: int) -> list[float]:
    """Return seconds from starting Python to the first explanation; the first one is left out."""
    times = []
    for _ in range(count + 1):
        started = time.perf_counter()
        subprocess.run([python, "-c", _FIRST, artifact, PICTURE], check=True)
        times.append(time.perf_counter() - started)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["demo", "resnet50"])
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--explanations", type=int, default=20_000, help="of the first backbone")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        python = make_environment(folder / "venv")
        size, names = installed(python)
        console.print(f"{size:.0f} MB: {', '.join(names)}")
        found: dict[str, Any] = {"environment_mb": size, "packages": names, "cold_start_s": {}}
        for backbone in options.backbones:
            artifact = folder / backbone
            weights = [] if backbone == "demo" else ["--weights", "random", "--head", "random"]
            command = [sys.executable, "-m", "tame_deploy", "export", "-b", backbone, *weights]
            subprocess.run([*command, "-o", artifact], check=True, capture_output=True)
            times = cold_starts(python, artifact, options.starts)
            found["cold_start_s"][backbone] = statistics.median(times)
            console.print(f"{backbone}: {statistics.median(times):.2f} s to the first explanation")
        import_s = cold_starts_of_numpy(python, options.starts)
        found["import_numpy_s"] = import_s
        artifact = folder / options.backbones[0]
        command = [python, "-c", _MANY, artifact, PICTURE, str(options.explanations)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found["explanations"] = options.explanations
        found["resident_mib"] = json.loads(done.stdout)
        console.print(f"MiB over {options.explanations}: {found['resident_mib']}")
    found["machine"] = machine_facts("onnxruntime", "numpy", "Pillow")
    console.print(write_results("deploy", found))


def cold_starts_of_numpy(python: Path, count: int) -> float:
    """Return the seconds that Python and numpy alone take, to compare with."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        subprocess.run([python, "-c", "import numpy"], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
