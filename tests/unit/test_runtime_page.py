"""The figures of docs/{runtime,serving,cpp}.md are those of the committed results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def streaming():
    yield ["backend", "model, pictures/s", "stream, pictures/s", "kept"]
    for name, row in results("streaming")["backends"].items():
        yield [
            name,
            f"{row['model_pictures_per_s']:.1f}",
            f"{row['stream_pictures_per_s']:.1f}",
            f"{row['kept']:.0%}",
        ]


def reading():
    found = results("reading")
    threads = max(int(key.rpartition("_")[2]) for key in next(iter(found["ways"].values()))
                  if key.startswith("threads_"))  # fmt: skip
    yield ["way", "times ours, 1 thread", f"{threads} threads", "equal pixels", "worst difference"]
    for name, row in found["ways"].items():
        yield [
            name,
            f"{row['threads_1']['times_ours']:.2f}x",
            f"{row[f'threads_{threads}']['times_ours']:.2f}x",
            f"{row['equality']['equal_pixels']:.2%}",
            str(row["equality"]["max_difference"]),
        ]


def bfloat16():
    found = results("bfloat16")
    yield ["", "speed, batch 1", "batch 8", "same class", "map Pearson, 5th percentile",
           "IoU of the top 15 %"]  # fmt: skip
    fidelity = found["fidelity"]
    judged = [f"{fidelity['top1_agreement']:.1%}", f"{fidelity['pearson_5th']:.4f}",
              f"{fidelity['iou_15']:.3f}"]  # fmt: skip
    for name, row in found["backends"].items():
        speeds = [f"{row[f'batch_{batch}']['speedup']:.2f}x" for batch in (1, 8)]
        yield [name, *speeds, *(judged if "bf16" in name else ["", "", ""])]


def deploy():
    found = results("deploy")
    steady = found["resident_mib"][1:]
    yield ["", "measured"]
    yield ["environment", f"{found['environment_mb']:.0f} MB"]
    yield ["first explanation, demo", f"{found['cold_start_s']['demo']:.2f} s"]
    yield ["first explanation, ResNet-50", f"{found['cold_start_s']['resnet50']:.2f} s"]
    yield ["`import numpy` alone", f"{found['import_numpy_s']:.2f} s"]
    yield ["resident memory", f"{min(steady):.0f} to {max(steady):.0f} MiB"]


def head():
    yield ["backbone", "batch", "backbone's share", "branches", "tail", "all else"]
    for run in results("head")["runs"]:
        whole = sum(run["ms"].values())
        share = {name: ms / whole for name, ms in run["ms"].items()}
        rest = 1 - share["backbone"] - share["branches"] - share["tail"]
        shown = (share["backbone"], share["branches"], share["tail"], rest)
        yield [run["backbone"], str(run["batch"]), *(f"{one:.1%}" for one in shown)]


def serving():
    tiny, resnet = results("serving")["runs"]
    yield ["in flight", "tiny, over PyTriton", "over KServe", "ResNet-50, over PyTriton",
           "over KServe", "ResNet-50, share of the runtime's own throughput"]  # fmt: skip
    for load in ("http 1", "http 8", "http 32", "grpc 1", "grpc 8", "grpc 32"):
        cells = [load.replace("http", "HTTP").replace("grpc", "gRPC")]
        for run in (tiny, resnet):
            ours = run["servers"]["tame-deploy"][load]["per_cpu_s"]["median"]
            for peer in ("pytriton", "kserve"):
                cells.append(f"{ours / run['servers'][peer][load]['per_cpu_s']['median']:.2f}x")
        own = resnet["runtime_pictures_per_s"]["median"]
        share = resnet["servers"]["tame-deploy"][load]["per_s"]["median"] / own
        yield [*cells, f"{share:.0%}"]


def cpp():
    yield ["", "libtame, demo", "Python / libtame", "libtame, ResNet-50", "Python / libtame"]
    what = {
        "own": "added to ONNX Runtime's own run",
        "prepare": "500x375 pixels resized and cropped",
        "explain": "from such pixels to an explanation",
        "first": "a process from start to end, one JPEG explained",
    }
    models = results("cpp")["models"]
    for name, title in what.items():
        cells = [title]
        for model in ("demo", "resnet50"):
            found = models[model]
            ms, ratio = found[f"cpp_{name}_s"] * 1e3, found[f"python_over_cpp_{name}"]
            cells += [f"{ms:.3g} ms", f"{ratio:.2f}x"]
        yield cells


PAGES = {
    "cpp": (cpp,),
    "runtime": (streaming, reading, bfloat16, deploy, head),
    "serving": (serving,),
}
TABLES = [(page, table) for page, tables in PAGES.items() for table in tables]


def written(table):
    """Return a table as the page should have it."""
    first, *rows = table()
    lines = [first, ["---"] * len(first), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@pytest.mark.parametrize(("page", "table"), TABLES, ids=lambda one: getattr(one, "__name__", one))
def test_a_table_is_what_was_measured(page, table):
    name = table.__name__
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)
    assert found[1] == written(table)
    assert results(name)["machine"]["processor"] in text
