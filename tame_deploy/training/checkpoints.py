"""The folder of a run, whole at any moment: checkpoint, heads, recipe, metrics."""

from __future__ import annotations

import csv
import io
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from tame_deploy.artifact.decoding import read_toml
from tame_deploy.errors import InputError, TrainingError
from tame_deploy.files import replaced_file
from tame_deploy.model.head_checkpoint import HeadCheckpoint, write_head
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.training.recipe import (
    Recipe,
    decode_recipe,
    differences,
    write_toml,
)

__all__ = ["MetricsFile", "RunFolder", "TrainingState"]

#: Keys of the recipe that a resumed run may change: they change no number of what it gives.
_CHANGEABLE = ("run.workers", "run.checkpoint_every", "data.root", "data.max_unreadable")


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What a checkpoint holds: everything beyond the recipe that decides what comes next.

    `step` counts optimizer steps; `best` is the lowest validation loss so far; `world` is the
    number of processes; `data` is a hash of the pictures' names; `average` is the average of the
    head's weights, if there is one.
    """

    step: int
    best: float
    world: int
    head: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    unreadable: dict[int, str] = field(default_factory=dict)


class RunFolder:
    """The output directory of a training run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "last.ckpt"
        self.best_head = self.path / "head-best.safetensors"
        self.last_head = self.path / "head-last.safetensors"
        self.metrics = self.path / "metrics.csv"
        self.recipe = self.path / "recipe.toml"
        self.step: int | None = None  # of the checkpoint, once this process has met it

    def check_free(self, *, overwrite: bool) -> None:
        """Check that a run may begin here, before anything that takes long.

        Raises:
            InputError: as `start` does.
        """
        if self.path.is_dir() and any(not _is_torn(entry) for entry in self.path.iterdir()):
            self._check_replaceable(overwrite)

    def start(self, recipe: Recipe, *, overwrite: bool) -> None:
        """Make the folder and note the recipe.

        Raises:
            InputError: if it holds something (and `overwrite` is off), or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(not _is_torn(entry) for entry in self.path.iterdir()):
                self._clear(overwrite)
            _replace(self.recipe, write_toml(recipe).encode())
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _check_replaceable(self, overwrite: bool) -> None:
        if not overwrite:
            raise InputError(
                f"{self.path} is not empty; pass --resume to go on with its run, --overwrite to "
                "start anew, or another --output"
            )
        if not self.recipe.is_file():
            raise InputError(f"{self.path} holds no training run; nothing in it is overwritten")

    def _clear(self, overwrite: bool) -> None:
        self._check_replaceable(overwrite)
        for file in (self.checkpoint, self.best_head, self.last_head, self.metrics):
            file.unlink(missing_ok=True)
        for folder in ("maps", "tensorboard"):
            shutil.rmtree(self.path / folder, ignore_errors=True)

    def stored_recipe(self) -> Recipe:
        """Return the recipe of the run that is to go on.

        Raises:
            InputError: if there is no run.
        """
        if not self.recipe.is_file():
            raise InputError(f"there is no run to resume in {self.path}")
        return decode_recipe(read_toml(self.recipe))

    def resume(self, recipe: Recipe, world: int, data: str = "") -> TrainingState | None:
        """Return the state to go on from, or None if the run has no checkpoint yet.

        Raises:
            InputError: if the run in the folder has another recipe, other pictures or another
                number of processes, or its checkpoint is damaged.
        """
        changed = differences(self.stored_recipe(), recipe)
        changed = [line for line in changed if line.partition(":")[0] not in _CHANGEABLE]
        if changed:
            raise InputError(
                f"the run in {self.path} has another recipe ({'; '.join(changed)}); resume it with "
                "its own, or choose another --output"
            )
        if not self.checkpoint.is_file():
            return None
        try:
            loaded = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            state = TrainingState(**loaded)
        # Arbitrary bytes make the restricted unpickler raise nearly anything.
        except Exception as error:
            raise InputError(
                f"{self.checkpoint} is damaged ({type(error).__name__}); its head may still be in "
                f"{self.last_head.name}, and --overwrite starts anew"
            ) from None
        if state.world != world:
            raise InputError(
                f"the run had {state.world} processes and now has {world}; expected as many, or "
                "its batches would be others"
            )
        if state.data != data:
            raise InputError(
                f"the run in {self.path} was on other pictures than are there now; bring them "
                "back, or start anew with --overwrite"
            )
        self.step = state.step
        return state

    def clear_torn(self) -> None:
        """Remove what a kill left of files that were being written."""
        for path in self.path.iterdir():
            if path.name.startswith(".partial-"):
                shutil.rmtree(path, ignore_errors=True)
            elif _is_torn(path):
                path.unlink(missing_ok=True)

    def save_checkpoint(self, state: TrainingState, network: ExplainedNetwork) -> None:
        """Write the checkpoint and the head as it is now; each is replaced whole or not at all.

        Raises:
            TrainingError: if the head is spoiled or the disk takes no more; the previous checkpoint
                is intact.
        """
        if not all(bool(torch.isfinite(value).all()) for value in state.head.values()):
            raise TrainingError(
                f"the head holds NaN or infinity after step {state.step}; the head of the last "
                "checkpoint is kept (a lower --lr may help; see tame-deploy find-lr)"
            )
        buffer = io.BytesIO()
        torch.save({item.name: getattr(state, item.name) for item in fields(state)}, buffer)
        try:
            _replace(self.checkpoint, buffer.getvalue())
        except OSError as error:
            raise TrainingError(
                f"cannot write {self.checkpoint}: {error.strerror or error}; the previous "
                "checkpoint is intact. Make room and go on with --resume"
            ) from error
        self.step = state.step
        self.save_head(network, self.last_head)

    def save_head(self, network: ExplainedNetwork, path: Path) -> None:
        """Write the head as safetensors.

        Raises:
            TrainingError: if the disk takes no more.
        """
        checkpoint = HeadCheckpoint(
            network.attention_head,
            network.backbone.name,
            tuple(feature.layer for feature in network.features),
            auxiliary=None if network.auxiliary is None else network.auxiliary.identity,
        )
        try:
            write_head(checkpoint, path, overwrite=True)
        except InputError as error:
            raise TrainingError(f"{error}; the previous one is intact") from error

    def how_to_resume(self) -> str:
        """Return what is there to go on from, and the command that does."""
        command = f"tame-deploy train --resume -o {shlex.quote(str(self.path))}"
        if self.checkpoint.is_file():
            step = "" if self.step is None else f" of step {self.step}"
            return f"the checkpoint{step} is {self.checkpoint}; go on from it with {command}"
        if self.recipe.is_file():
            return f"no checkpoint was written yet; begin again with {command}"
        return f"nothing was written to {self.path} yet"


def _replace(path: Path, data: bytes) -> None:
    """Replace a file by new contents, whole or not at all, also where the power fails."""
    with replaced_file(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _is_torn(path: Path) -> bool:
    """Whether a file is what a kill leaves of one of ours."""
    return path.name.startswith(".partial-") or path.name.endswith(".partial")


class MetricsFile:
    """metrics.csv: a row whenever something was measured; steps not taken yet are cut off."""

    COLUMNS = (
        "step", "epoch", "split", "loss", "cross_entropy", "area", "variation", "lr",
        "average_drop", "increase_in_confidence", "seconds",
    )  # fmt: skip

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if _is_taken(row, step)]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        _replace(path, text.getvalue().encode())

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers keep seven digits."""
        rounded = {k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.COLUMNS).writerow(rounded)


def _is_taken(row: Mapping[str, str | None], step: int) -> bool:
    """Whether a row is of a step that the checkpoint has taken; the last one may be torn."""
    text = row.get("step") or ""
    return text.isdecimal() and int(text) <= step and row.get("seconds") is not None
