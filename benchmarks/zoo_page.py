"""docs/zoo.md: the table of the zoo, made from its results."""

from __future__ import annotations

from typing import Any

__all__ = ["page_of"]

_HEAD = """# The zoo: architectures that go through the whole pipeline

{works} of {count} architectures of torchvision, timm and transformers go through `layers`, `export`, ONNX Runtime and OpenVINO beside PyTorch
at batches of 1, 2, 3 and 7, libtame, float16, and INT8 for CPUs and for TensorRT. The weights are random: the table shows that a graph is
right, and not how good a map is.

Measured by `benchmarks/zoo.py` on {processor}, {cores} cores, with {versions}.

- **map**: its height and width, for the layers that `tame-deploy layers` proposes and pictures of the size beside it.
- **ONNX Runtime**, **OpenVINO**, **libtame**: the largest error of a map's value at any of the batches, as a share of the map's range (at most
  0.5 % is allowed). A dash means that it was not run.
- **float16**, **INT8**: the mean correlation of maps with float32's, nothing recovered and random weights: that it was made and ran.
- **on integers**: the share of the multiply-adds that INT8 for CPUs does on integers.

| architecture | `--backbone` | picture | map | ONNX Runtime | OpenVINO | libtame | float16 | INT8, CPU | on integers | INT8, TensorRT |
|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def page_of(results: dict[str, Any]) -> str:
    """Return the page for results of `benchmarks/zoo.py`."""
    members, machine = results["members"], results["machine"]
    refused = {name: row for name, row in members.items() if "refused" in row}
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    head = _HEAD.format(
        works=len(members) - len(refused),
        count=len(members),
        processor=machine["processor"],
        cores=machine["cores"],
        versions=versions,
    )
    rows = [_row(name, row) for name, row in members.items() if name not in refused]
    return head + "\n".join(rows) + "\n" + _refusals(refused)


def _row(family: str, row: dict[str, Any]) -> str:
    cells = [
        family,
        f"`{row['name']}`" if row["name"] != "hf" else "`hf:FOLDER`",
        row["picture"],
        row["map"],
        *(_error(row.get(name)) for name in ("onnxruntime", "openvino", "libtame")),
        _alike(row["fp16_tensorrt"]),
        _alike(row["int8_cpu"]),
        f"{row['int8_cpu']['integer_share']:.0%}",
        _alike(row["int8_tensorrt"]),
    ]
    return f"| {' | '.join(cells)} |"


def _error(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{found['map_error']:.4%}"


def _alike(found: dict[str, float]) -> str:
    return f"{found['map_correlation']:.3f}"


def _refusals(refused: dict[str, Any]) -> str:
    if not refused:
        return ""
    lines = [f"| {name} | `{row['name']}` | {row['refused']} |" for name, row in refused.items()]
    head = (
        "\n## What does not go through, and why\n\n| architecture | `--backbone` | what is said |"
    )
    return f"{head}\n|---|---|---|\n" + "\n".join(lines) + "\n"
