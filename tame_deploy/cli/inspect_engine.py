"""`inspect` for an engine: its card, and its layers one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tame_deploy.artifact.sidecar import SIDECAR_NAME, EngineSidecar
from tame_deploy.cli.screen import (
    console,
    fidelity_table,
    notes,
    parity_table,
    print_wrapped,
    score_table,
)
from tame_deploy.errors import ManifestError, TameError

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.engine.layers import Layer
    from tame_deploy.runtime.backends.tensorrt.engines import StoredEngine

#: Weights as layers of their own say nothing about what runs.
_NOT_SHOWN = ("constant",)


def engine_folder(path: str) -> Path | None:
    """Return the engine's folder that a path names, by itself or by its plan; None if none."""
    given = Path(path)
    if given.suffix == ".plan":
        given = given.parent
    return given if (given / SIDECAR_NAME).is_file() else None


@dataclass(frozen=True)
class _Memory:
    """Bytes: of the plan's file, and while it runs, where a GPU could be asked."""

    plan: int
    scratch: int | None


def inspect_engine(folder: Path, *, as_json: bool) -> None:
    """Show an engine's sidecar, memory and layers, as a card and a table or as JSON."""
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.engine.layers import precision_counts
    from tame_deploy.runtime.backends.tensorrt.engines import check_graph, check_plan, read_engine

    engine = read_engine(folder)
    # engines/NAME lies in its artifact.
    artifact = open_artifact(folder.absolute().parent.parent)
    check_graph(artifact, engine)
    check_plan(artifact, engine)
    layers, memory, source = _look_inside(artifact, engine)
    if as_json:
        described = {
            "engine": json.loads(engine.sidecar.to_json()),
            "memory": asdict(memory),
            "layers_of": source,
            "precisions": precision_counts(layers),
            "layers": [asdict(layer) for layer in layers],
        }
        print(json.dumps(described, indent=2))
        return
    shown = [layer for layer in layers if layer.type not in _NOT_SHOWN]
    hidden = len(layers) - len(shown)
    left_out = f", {hidden} constants left out" * bool(hidden)
    print_wrapped(_layer_table(shown, f"{len(shown)} layers of {source}{left_out}"))
    counts = ", ".join(f"{kind} {count}" for kind, count in precision_counts(shown).items())
    console.print(f"these {len(shown)} layers give: {counts}")
    console.print(_card(engine, memory))
    _show_verified(engine.sidecar)


def _look_inside(artifact: Artifact, engine: StoredEngine) -> tuple[Sequence[Layer], _Memory, str]:
    """Ask the engine itself where a GPU can open it, and the network it was built of otherwise."""
    from tame_deploy.engine.layers import LAYERS_NAME, engine_layers, layers_from_json
    from tame_deploy.runtime.backends.tensorrt import cuda
    from tame_deploy.runtime.backends.tensorrt.engines import choose_engine
    from tame_deploy.runtime.backends.tensorrt.flavours import load_library
    from tame_deploy.runtime.backends.tensorrt.loaded import load_engine

    size = engine.sidecar.plan_bytes
    flavour = engine.sidecar.flavour
    try:
        device = cuda.probe()
        library = load_library(flavour)
        choose_engine(artifact, flavour, library.version, device, engine.folder.name)
        loaded = load_engine(artifact, engine, library, device, graphs=False)
        layers = engine_layers(library.trt, loaded.engine)
        return layers, _Memory(size, loaded.scratch_bytes), "the engine, by its inspector"
    except TameError as error:
        notes.print(
            f"[yellow]note:[/] the network before it was fused, because: {escape(str(error))}"
        )
    path = engine.folder / LAYERS_NAME
    try:
        layers = layers_from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    return layers, _Memory(size, None), "the network before it was fused"


def _card(engine: StoredEngine, memory: _Memory) -> Table:
    sidecar, options = engine.sidecar, engine.sidecar.options
    card = Table(title=engine.folder.name, title_justify="left", show_header=False)
    card.add_column(style="bold")
    card.add_column(overflow="fold")
    switches = ("version_compatible", "hardware_compatible", "refit", "strip")
    on = [name.replace("_", " ") for name in switches if getattr(options, name)]
    scratch = f"{memory.scratch / 2**20:.1f} MiB" if memory.scratch is not None else "ask on a GPU"
    rows = [
        ("made by", f"{sidecar.flavour} {sidecar.version}, in {sidecar.build_s:.1f} s"),
        ("runs on", sidecar.runs_where),
        *([("built on", sidecar.device)] if sidecar.device else []),
        ("precision", sidecar.shown_precision),
        ("profiles", "\n".join(map(str, options.profiles))),
        ("workspace", f"{options.workspace_mib} MiB" if options.workspace_mib else "all"),
        ("level", str(options.optimization_level)),
        *([("also", ", ".join(on))] if on else []),
        ("inputs", "\n".join(map(str, sidecar.inputs))),
        ("outputs", "\n".join(map(str, sidecar.outputs))),
        ("plan", f"{memory.plan / 1e6:.1f} MB, sha256 {sidecar.plan_sha256[:16]}…"),
        ("scratch", scratch),
        ("of graph", f"sha256 {sidecar.onnx_sha256[:16]}…"),
    ]
    for name, value in rows:
        card.add_row(name, Text(value))
    return card


def _layer_table(layers: Sequence[Layer], title: str) -> Any:
    fused = any(len(layer.fused) > 1 for layer in layers)
    lines = [
        [
            escape(layer.name),
            layer.type,
            layer.precision,
            "x".join("?" if size < 0 else str(size) for size in layer.shape),
            *([escape(", ".join(layer.fused))] if fused else []),
        ]
        for layer in layers
    ]
    headings = ["layer", "type", "gives", "shape", *(["fused of"] if fused else [])]
    table = score_table(title, headings, lines)
    for column in table.columns:
        column.justify, column.overflow = "left", "fold"
    return table


def _show_verified(sidecar: EngineSidecar) -> None:
    if sidecar.verified_on is None:
        notes.print(
            "[yellow]not verified:[/] run tame-deploy verify on its GPU before it is trusted"
        )
        return
    for batch, parity in sidecar.parity.items():
        console.print(parity_table(parity, f"batch {batch}, on {sidecar.verified_on}"))
    for batch, fidelity in sidecar.fidelity.items():
        console.print(fidelity_table(fidelity, f"batch {batch}"))
