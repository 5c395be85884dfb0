"""What an explanation costs on a GPU, beside its peers: one command, everything interleaved.

    python benchmarks/gpu/measure.py                       # resnet50, vgg16; batch 1, 8, 64, 256
    python benchmarks/gpu/measure.py --backbones resnet50 --batches 1 8 --keep build/gpu
    python benchmarks/gpu/measure.py --smoke               # no GPU: does it run at all?

Plain classifier, fused graph and the reference's graph on TensorRT, TensorRT-RTX and ONNX Runtime;
TAME in PyTorch, eager and compiled, as published; Grad-CAM with its backward pass. Every round
times each candidate once, in an order drawn anew, twice: between CUDA events with inputs and
outputs on the GPU, and on the wall clock, numpy in and numpy out. One call at a time; pictures a
second are batch size over median latency. Memory is that of a candidate alone: torch's own count,
or what the GPU has less of, where the first to use a library carries that library's kernels too.
Weights are random: this measures speed, and nothing else.
What cannot be had is noted with its reason. Results of other backbones and batch sizes that the
same machine has measured before stay in the file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from candidate import PRECISIONS, Candidate
from machine import RESULTS, machine_facts, write_results
from place import Place, gpu_facts, library_versions, slug
from rich.console import Console
from rich.table import Table

from tame_deploy.errors import TameError
from tame_deploy.runtime.backends.tensorrt import cuda

if TYPE_CHECKING:
    from graphs import Graphs
    from rounds import Length

BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime", "torch", "torch-compile")
#: Where the table goes into a file.
_FILE_WIDTH = 160
_SMOKE = "SMOKE RUN on the CPU: none of these numbers means anything"


def main() -> None:
    options = parse()
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    place = Place(None if options.smoke else _found_gpu(options.device))
    try:
        runs = measure_all(options, place, console)
    except TameError as error:
        raise SystemExit(str(error)) from error
    for run in runs:
        show(run, console, smoke=options.smoke)
    if options.smoke:
        console.print(f"{_SMOKE}; no results were written")
    else:
        console.print(f"random weights: speed only; {_results_path(place)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backbones", nargs="+", default=["resnet50", "vgg16"])
    add("--batches", nargs="+", type=int, default=[1, 8, 64, 256])
    add("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    add("--precisions", nargs="+", default=["fp32", "tf32", "fp16", "int8"],
        choices=PRECISIONS)  # fmt: skip
    add("--rounds", type=int, default=200, help="at most")
    add("--least", type=int, default=30, help="rounds, however long they take")
    add("--seconds", type=float, default=60, help="for a backbone, batch size and group")
    add("--compile-mode", default="default", help="of torch.compile")
    add("--device", type=int, default=0, help="number of the GPU")
    add("--keep", type=Path, help="folder for graphs and engines; what is there is used as it is")
    add("--smoke", action="store_true", help="tiny, on the CPU; writes no results")
    options = parser.parse_args()
    if options.smoke:
        options.backbones, options.batches = ["demo"], [1, 2]
        options.rounds = options.least = 2
        options.precisions = [one for one in options.precisions if one != "tf32"]
    return options


def _found_gpu(index: int) -> cuda.Device:
    """Return the GPU, or end with one line; before anything heavy is imported."""
    try:
        return cuda.probe(index)
    except TameError as error:
        raise SystemExit(
            f"{error}. This benchmark needs an NVIDIA GPU; --smoke tries it without one"
        ) from None


def measure_all(
    options: argparse.Namespace, place: Place, console: Console
) -> list[dict[str, Any]]:
    """Measure every backbone and batch size; what is done is written at once."""
    import numpy as np
    from graphs import make_all, specs_of
    from rounds import Length, measure, rows_of

    def tell(text: str) -> None:
        console.print(text, style="dim", highlight=False, markup=False)

    length = Length(options.rounds, options.least, options.seconds)
    runs = []
    kept = nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory()
    with kept as work:
        for backbone in options.backbones:
            folder = Path(work) / backbone
            graphs = make_all(backbone, folder, options.precisions, tell)
            shape = specs_of(graphs.find("plain", "fp32"))[0][0].shape[1:]
            for batch in options.batches:
                pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
                candidates = make_subjects(options, backbone, graphs, pixels, place, folder)
                tell(f"{backbone}, batch {batch}: {len(candidates)} candidates, each alone first")
                found = measure(candidates, place, length, tell)
                run = {"backbone": backbone, "batch": batch, "rows": rows_of(found, batch)}
                runs.append(run)
                if not options.smoke:
                    write(run, options, place, length)
    return runs


def make_subjects(
    options: argparse.Namespace,
    backbone: str,
    graphs: Graphs,
    pixels: Any,
    place: Place,
    folder: Path,
) -> list[Candidate]:
    """Return the candidates of one backbone and batch size."""
    from engines import engine_subjects
    from networks import torch_subjects
    from sessions import session_subjects

    precisions = tuple(options.precisions)
    # Compiling for real takes most of a minute a candidate; a smoke run only traces.
    compiler = {"backend": "eager"} if options.smoke else {"mode": options.compile_mode}
    candidates = [
        *engine_subjects("tensorrt", graphs, precisions, pixels, place, folder),
        *engine_subjects("tensorrt-rtx", graphs, precisions, pixels, place, folder),
        *session_subjects(graphs, precisions, pixels),
        *torch_subjects(backbone, precisions, pixels, compiler),
    ]
    return [candidate for candidate in candidates if candidate.backend in options.backends]


def _results_path(place: Place) -> Path:
    return RESULTS / f"gpu-{slug(place.gpu().name)}.json"


def write(run: dict[str, Any], options: argparse.Namespace, place: Place, length: Length) -> Path:
    """Put a run into the results, in place of an earlier one of the same backbone and batch."""
    path = _results_path(place)
    machine = {
        **machine_facts("tame-deploy"),
        "gpu": gpu_facts(place.gpu()),
        "versions": library_versions(),
    }
    runs: list[dict[str, Any]] = []
    if path.exists():
        earlier = json.loads(path.read_text())
        runs = earlier["runs"] if earlier["machine"] == machine else []
    key = (run["backbone"], run["batch"])
    runs = [one for one in runs if (one["backbone"], one["batch"]) != key]
    settings = {
        "rounds": [length.least, length.rounds],
        "seconds": length.seconds,
        "compile_mode": options.compile_mode,
    }
    return write_results(
        path.stem,
        {
            "machine": machine,
            "weights": "random: speed only",
            "runs": [*runs, {**run, **settings}],
        },
    )


def show(run: dict[str, Any], console: Console, *, smoke: bool) -> None:
    """Print a run's table, and below it what could not be had."""
    title = f"{run['backbone']}, batch {run['batch']}"
    table = Table(
        "backend", "precision", "candidate", "ms p50 / p90 / p99", "with copies", "pictures/s",
        "over plain", "with copies", "MiB",
        title=f"{title}; {_SMOKE}" if smoke else title,
    )  # fmt: skip
    reasons: dict[str, list[str]] = {}
    for row in run["rows"]:
        named = [row["backend"], row["precision"], row["candidate"]]
        if "reason" in row:
            reasons.setdefault(row["reason"], []).append(" ".join(named))
            continue
        both = [row["without_copies"], row["with_copies"]]
        latencies = [
            " / ".join(f"{times[name]:.3g}" for name in ("p50_ms", "p90_ms", "p99_ms"))
            for times in both
        ]
        speed = " / ".join(f"{times['pictures_per_s']:.0f}" for times in both)
        ratios = [_ratio_cell(times["over_plain"]) for times in both]
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
        table.add_row(*named, *latencies, speed, *ratios, memory)
    console.print(table)
    for reason, names in reasons.items():
        console.print(f"not measured: {', '.join(names)}: {reason}", highlight=False, markup=False)


def _ratio_cell(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{found['ratio']:.2f}x"


if __name__ == "__main__":
    main()
