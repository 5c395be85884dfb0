"""Our server beside NVIDIA PyTriton and KServe: the same graph, one load, one machine.

    python benchmarks/serving.py --pytriton-python PT/bin/python --kserve-python KS/bin/python
    python benchmarks/serving.py --smoke           # a few seconds of load each, nothing written

A peer is left out where no Python for it is named. Each needs an environment of its own, as
PyTriton keeps to numpy 1: `pip install nvidia-pytriton "numpy<2" onnxruntime` in one, and
`pip install kserve onnxruntime` in the other.

Two graphs: "tiny", 602 KB of float32 in and nearly nothing to compute, which is about the server
alone, and ResNet-50 with random weights. All run them in ONNX Runtime, with equally many threads.
Servers run one after another, never together, in an order drawn anew in each round. The load comes
from a process of its own that sends the same bytes again and again; the CPU time of a server is
that of its whole process tree, without the generator's. The first answer of each load is compared
with the runtime's own, the others by their length.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_facts, write_results
from rich.console import Console
from rich.table import Table
from serving_load import (
    MODEL,
    Arrays,
    Load,
    decoded,
    fresh,
    generate,
    own_command,
    ports_of,
    requests_of,
    started,
    wire_bytes,
    workers,
)
from serving_peers import KSERVE, PEERS, PYTRITON

OURS = "tame-deploy"
ORDER = (OURS, PYTRITON, KSERVE)
TRANSPORTS = ("http", "grpc")
IN_FLIGHT = (1, 8, 32)
BATCH = 8
#: How far answers may be from the runtime's: the batch that a picture is in matters a little.
TOLERANCE = 1e-3
#: A load ends after its seconds, or so many requests.
MOST_REQUESTS = 20_000


@dataclass(kw_only=True)
class Workload:
    """An artifact that all serve, one picture for it, and what the runtime answers.

    `rows` has what was measured, by server and load; `own_rates` is the runtime alone, by rounds.
    """

    name: str
    path: Path
    threads: int
    feeds: Arrays
    answer: Arrays
    rows: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    own_rates: list[float] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


# What is served


def export_tiny(folder: Path) -> Path:
    """Export a network that computes nearly nothing of a picture of 224x224."""
    import torch
    from torch import nn

    from tame_deploy.artifact.manifest import WeightsSource
    from tame_deploy.artifact.types import ImageSpec
    from tame_deploy.export.artifact_export import export_artifact
    from tame_deploy.export.options import ExportOptions
    from tame_deploy.model.backbones import Backbone
    from tame_deploy.model.network import HeadRequest, build_network

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 32, stride=32), *(nn.Conv2d(4, 4, 1) for _ in range(2))]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    module.eval().requires_grad_(False)
    source = WeightsSource("random, seed 0", random=True)
    backbone = Backbone("tiny", module, ImageSpec(), None, source)
    network = build_network(backbone, HeadRequest("random"), ("0", "1", "2"))
    return export_artifact(network, folder, ExportOptions(input="float32")).path


def export_backbone(name: str, folder: Path) -> Path:
    """Export a backbone with random weights."""
    from peers import make_artifact

    return make_artifact(name, folder)


def example(path: Path, threads: int) -> tuple[Arrays, Arrays]:
    """Return one picture as the graph's input, and the runtime's answer to it."""
    from tame_deploy import load
    from tame_deploy.data.shapes import draw_picture
    from tame_deploy.picture.preprocess import prepare_batch
    from tame_deploy.runtime.backends.protocol import BackendOptions

    with load(path, backend="onnxruntime", options=BackendOptions(threads=threads)) as explainer:
        images = prepare_batch([draw_picture(1, 224)[0]], explainer.artifact.manifest.image)
        feeds = {"images": images, "class_ids": np.full((1, 1), -1, np.int64)}
        return feeds, explainer.backend.run(feeds)


def own_rate(path: Path, feeds: Arrays, *, threads: int, seconds: float) -> float:
    """Return the pictures a second that the runtime itself does, in full batches."""
    from tame_deploy import load
    from tame_deploy.runtime.backends.protocol import BackendOptions

    batch = {name: np.repeat(array, BATCH, axis=0) for name, array in feeds.items()}
    with load(path, backend="onnxruntime", options=BackendOptions(threads=threads)) as explainer:
        explainer.backend.run(batch)
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            explainer.backend.run(batch)
            runs += 1
        return runs * BATCH / (time.perf_counter() - start)


# Measuring


def command_of(server: str, python: str, work: Workload) -> Any:
    """Return what starts a server, given its ports."""
    if server == OURS:
        options = ("--threads", work.threads, "--max-batch", BATCH)
        return lambda ports: own_command(work.path, ports, *options)
    told = {
        "file": str(work.path / "model.onnx"), "model": MODEL, "batch": BATCH,
        "threads": work.threads, "inputs": ports_of(work.feeds), "outputs": ports_of(work.answer),
    }  # fmt: skip
    return lambda ports: [python, "-c", PEERS[server], json.dumps({**told, **ports})]


def check(work: Workload, transport: str, first: tuple[bytes, bytes]) -> None:
    """Compare an answer with the runtime's own.

    Raises:
        RuntimeError: if it is another.
    """
    found = decoded(transport, first)
    for name, expected in work.answer.items():
        if not np.allclose(found[name], expected, atol=TOLERANCE, rtol=0):
            raise RuntimeError(f"answers {name} that are not the runtime's")


def visit(work: Workload, server: str, options: argparse.Namespace, *, folder: Path) -> None:
    """Start a server, put every load on it, and note what was measured."""
    requests = requests_of(work.feeds, list(work.answer))
    rows = work.rows.setdefault(server, {})
    command = command_of(server, options.pythons[server], work)
    with started(command, folder / f"{server}.log") as one, workers(1) as generator:
        loads = [(transport, n) for transport in TRANSPORTS for n in IN_FLIGHT]
        for transport, n in random.sample(loads, len(loads)):
            load = Load(
                transport=transport, port=one.ports[transport], request=requests[transport],
                in_flight=n, seconds=options.seconds, most=MOST_REQUESTS, pid=one.process.pid,
            )  # fmt: skip
            try:
                found = generator.submit(generate, load).result()
                check(work, transport, found.pop("first"))
                rows.setdefault(f"{transport} {n}", []).append(found)
            except Exception as error:  # whatever another's server makes of it
                work.left_out[f"{server} {transport} {n}"] = f"{error!s:.300}"


def measure(work: Workload, options: argparse.Namespace, folder: Path) -> None:
    """Run all servers, and the runtime alone, in rounds."""
    running = [name for name in ORDER if name in options.pythons]
    for name in set(ORDER) - set(running):
        work.left_out[name] = f"no Python with it was named: --{name}-python"
    for _ in range(options.rounds):
        for server in random.sample([*running, ""], len(running) + 1):
            if not server:
                rating = partial(own_rate, threads=work.threads, seconds=options.seconds)
                work.own_rates.append(fresh(rating, work.path, work.feeds))
                continue
            try:
                visit(work, server, options, folder=folder)
            except RuntimeError as error:
                work.left_out[server] = str(error)


# What it means


def spread(values: list[float]) -> dict[str, Any]:
    """Return the median and the quartiles, or of two or one all."""
    if len(values) < 3:
        return {"median": statistics.median(values), "all": values}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


def summary(work: Workload) -> dict[str, Any]:
    """Return spreads by server and load, and of each load ours over its peer's, by rounds."""
    servers: dict[str, Any] = {}
    for server, rows in sorted(work.rows.items(), key=lambda one: ORDER.index(one[0])):
        servers[server] = {}
        for load, rounds in rows.items():
            row = {key: spread([one[key] for one in rounds]) for key in rounds[0]}
            ours = work.rows.get(OURS, {}).get(load, [])
            if server != OURS and len(ours) == len(rounds):
                pairs = zip(ours, rounds, strict=True)
                row["ours_over_it_per_cpu_s"] = spread(
                    [own["per_cpu_s"] / its["per_cpu_s"] for own, its in pairs]
                )
            elif server == OURS:
                shares = zip(rounds, work.own_rates, strict=False)
                row["share_of_runtime"] = spread([one["per_s"] / rate for one, rate in shares])
            servers[server][load] = row
    wire = wire_bytes(work.feeds, list(work.answer))
    return {"workload": work.name, "threads": work.threads, "servers": servers,
            "runtime_pictures_per_s": spread(work.own_rates), "bytes_of_a_request": wire,
            "left_out": work.left_out}  # fmt: skip


def verdicts(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold what was measured to the targets, one after another."""
    found = []

    def judge(what: str, value: float, target: float, *, least: bool = True) -> None:
        met = value >= target if least else value <= target
        found.append({"what": what, "value": value, "target": target, "met": met})

    for run in runs:
        name, servers = run["workload"], run["servers"]
        for load, row in servers.get(PYTRITON, {}).items() if name == "tiny" else ():
            if "ours_over_it_per_cpu_s" in row:
                value = row["ours_over_it_per_cpu_s"]["median"]
                judge(
                    f"{name}, {load} in flight: requests per CPU-second over PyTriton's", value, 2
                )
        for transport in TRANSPORTS:
            row = servers[OURS].get(f"{transport} {IN_FLIGHT[-1]}")
            if row is None:
                continue
            if name != "tiny":
                judge(f"{name}, {transport}: share of the runtime's own throughput",
                      row["share_of_runtime"]["median"], 0.95)  # fmt: skip
            slowest = row["p99_ms"]["median"] / row["p50_ms"]["median"]
            judge(f"{name}, {transport}: p99 over p50 at 32 in flight", slowest, 2, least=False)
            size = run["bytes_of_a_request"][transport]
            if name != "tiny":
                judge(f"{name}, {transport}: bytes in float32 over uint8",
                      size["float32"] / size["uint8"], 3)  # fmt: skip
    return found


def as_table(run: dict[str, Any]) -> Table:
    """Return a workload's numbers for the screen."""
    heads = ("server", "load", "requests/s", "per CPU-s", "ours / it, per CPU-s", "p50 ms",
             "p99 ms", "server, cores", "generator, cores")  # fmt: skip
    table = Table(*heads, title=f"{run['workload']}, {run['threads']} threads")
    keys = ("per_s", "per_cpu_s", "ours_over_it_per_cpu_s", "p50_ms", "p99_ms", "server_cores",
            "generator_cores")  # fmt: skip
    for server, rows in run["servers"].items():
        for load in sorted(rows, key=lambda one: (one.split()[0], int(one.split()[1]))):
            row = rows[load]
            cells = (f"{row[key]['median']:.2f}" if key in row else "" for key in keys)
            table.add_row(server, load, *cells)
    return table


def make_work(name: str, folder: Path, options: argparse.Namespace) -> Workload:
    """Export what is served, in processes of their own."""
    threads = 1 if name == "tiny" else options.threads
    path = folder / name
    path = fresh(export_tiny, path) if name == "tiny" else fresh(export_backbone, name, path)
    feeds, answer = fresh(example, path, threads)
    return Workload(name=name, path=path, threads=threads, feeds=feeds, answer=answer)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pytriton-python", help="a Python that has nvidia-pytriton")
    parser.add_argument("--kserve-python", help="a Python that has kserve")
    parser.add_argument("--workloads", nargs="+", default=["tiny", "resnet50"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)),
                        help="of all but tiny")  # fmt: skip
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    parser.add_argument("--smoke", action="store_true", help="tiny and the demo, a second each")
    options = parser.parse_args()
    if options.smoke:
        options.workloads, options.rounds, options.seconds = ["tiny", "demo"], 1, 1
    options.pythons = {OURS: sys.executable}
    for name, python in {PYTRITON: options.pytriton_python, KSERVE: options.kserve_python}.items():
        if python is not None:
            options.pythons[name] = python
    return options


def main() -> None:
    options, console, runs = parsed(), Console(width=140), []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.workloads:
            work = make_work(name, Path(folder), options)
            measure(work, options, Path(folder))
            runs.append(summary(work))
            console.print(as_table(runs[-1]))
            rate = runs[-1]["runtime_pictures_per_s"]["median"]
            console.print(f"the runtime alone, in batches of {BATCH}: {rate:.1f} pictures/s")
            for left, why in work.left_out.items():
                console.print(f"left out: {left}: {why}", markup=False)
    judged = verdicts(runs)
    for one in judged:
        met = "[green]met[/]" if one["met"] else "[red]NOT met[/]"
        console.print(f"{met}: {one['what']}: {one['value']:.2f}, target {one['target']}")
    facts = machine_facts("tame-deploy", "onnxruntime", "uvicorn", "grpcio")
    console.print(f"{facts['processor']}, {facts['cores']} cores")
    if not (options.smoke or options.no_write):
        results = {"machine": facts, "weights": "random: speed only", "rounds": options.rounds,
                   "seconds": options.seconds, "runs": runs, "targets": judged}  # fmt: skip
        console.print(str(write_results("serving", results)))


if __name__ == "__main__":
    main()
