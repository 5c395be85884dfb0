"""The zoo: which architectures go through the whole pipeline, with random weights.

    python benchmarks/zoo.py PHOTOGRAPHS                 # all of them, in processes of their own
    python benchmarks/zoo.py PHOTOGRAPHS --only hrnet    # those whose name or family has "hrnet"
    python benchmarks/zoo.py PHOTOGRAPHS --missing       # those that have no result yet
    python benchmarks/zoo.py PHOTOGRAPHS --page          # and docs/zoo.md from all results

Each goes through: layers (as proposed), export with its checks, ONNX Runtime and OpenVINO beside
PyTorch at batches of 1, 2, 3 and 7, float16, INT8 for CPUs and for TensorRT, and libtame where it
is built (`make cpp`). What fails is kept with its one line. Random weights show that a graph is
right and not that a map is good, so of lower precisions the table says that they were made and run,
and what share of the multiply-adds is on integers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from machine import RESULTS, machine_facts, write_results
from rich.console import Console
from zoo_members import MEMBERS, Member

BATCHES = (1, 2, 3, 7)
#: Seconds after which one member is given up.
LIMIT_S = 900
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "onnxruntime", "openvino")
FILE = RESULTS / "zoo.json"
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
_log = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", type=Path, help="a folder of at least 16 pictures")
    parser.add_argument("--only", nargs="+", help="parts of names or families")
    parser.add_argument("--missing", action="store_true", help="leave out what has a result")
    parser.add_argument("--jobs", type=int, default=1, help="members at a time, each on one core")
    parser.add_argument("--page", action="store_true", help="write docs/zoo.md")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        os.sched_setaffinity(0, {asked.core})
        print(json.dumps(tried(MEMBERS[asked.one], asked.photographs)))
        return
    chosen = [place for place, member in enumerate(MEMBERS) if _is_meant(member, asked.only)]
    found = json.loads(FILE.read_text())["members"] if FILE.is_file() else {}
    if asked.missing:
        chosen = [place for place in chosen if MEMBERS[place].family not in found]
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[: asked.jobs]:
        cores.put(core)
    with ThreadPoolExecutor(asked.jobs) as pool:
        rows = pool.map(lambda place: _apart(place, asked.photographs, cores), chosen)
        for place, row in zip(chosen, rows, strict=True):
            found[MEMBERS[place].family] = row
            _log.print(f"{MEMBERS[place].family}: {row.get('refused') or 'works'} "
                       f"({row['seconds']:.0f} s)", markup=False)  # fmt: skip
            ordered = {one.family: found[one.family] for one in MEMBERS if one.family in found}
            write_results("zoo", {"machine": machine_facts(*LIBRARIES), "members": ordered})
    if asked.page:
        from zoo_page import page_of

        PAGE.write_text(page_of(json.loads(FILE.read_text())), encoding="utf-8")


def _is_meant(member: Member, only: list[str] | None) -> bool:
    words = f"{member.family} {member.name}".casefold()
    return only is None or any(part.casefold() in words for part in only)


def _apart(place: int, photographs: Path, cores: SimpleQueue[int]) -> dict[str, Any]:
    """Try a member in a process of its own, on a core of its own, so that none spoils another."""
    started = time.perf_counter()
    core = cores.get()
    command = [sys.executable, __file__, str(photographs), "--one", str(place), "--core", str(core)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        row = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        row = {"refused": f"not done after {LIMIT_S} s"}
    except (IndexError, ValueError):
        row = {"refused": (done.stderr.strip().splitlines() or ["ended without a word"])[-1][:300]}
    finally:
        cores.put(core)
    return {"name": MEMBERS[place].name, **row, "seconds": time.perf_counter() - started}


def tried(member: Member, photographs: Path) -> dict[str, Any]:
    """Return what one member came to; the first thing that fails is `refused`, with its stage."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAME_DEPLOY_CACHE"] = os.path.join(folder, "cache")
        for stage, step in stages(member, photographs, Path(folder)):
            try:
                row |= step()
            except Exception as error:  # whatever it is, it is a row of the table
                lines = str(error).strip().splitlines() or [type(error).__name__]
                row["refused"] = f"{stage}: {lines[0]:.300}"
                break
    return row


def stages(
    member: Member, photographs: Path, folder: Path
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    from zoo_steps import Steps

    steps = Steps(member, photographs, folder)
    return [
        ("layers", steps.layers),
        ("export", steps.export),
        ("ONNX Runtime", lambda: steps.backend("onnxruntime", BATCHES)),
        ("OpenVINO", lambda: steps.backend("openvino", BATCHES)),
        ("libtame", lambda: steps.libtame(BATCHES)),
        ("float16", lambda: steps.quantized("fp16", "tensorrt")),
        ("INT8 for CPUs", lambda: steps.quantized("int8", "cpu")),
        ("INT8 for TensorRT", lambda: steps.quantized("int8", "tensorrt")),
    ]


if __name__ == "__main__":
    main()
