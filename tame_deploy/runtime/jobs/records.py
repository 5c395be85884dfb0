"""Results on disk: one record a picture, as JSON lines or Parquet, and maps in shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from tame_deploy.closing import Closing
from tame_deploy.errors import InputError, ManifestError, require_extra
from tame_deploy.files import replaced_file
from tame_deploy.runtime.explain.explanation import PictureExplanation
from tame_deploy.runtime.jobs.questions import RecordedQuestion, question_of

__all__ = [
    "LINES_NAME",
    "RecordFormat",
    "RecordedNames",
    "Records",
    "output_options",
    "recorded_names",
]

RecordFormat: TypeAlias = Literal["jsonl", "parquet"]

LINES_NAME = "results.jsonl"
_MAPS_PATTERN = "maps-[0-9]*.npz"
_PARQUET_PATTERN = "results-[0-9]*.parquet"
#: Records, and maps, that are written to one file.
SHARD = 1000


class Records(Closing):
    """Writes records, and maps where they are wanted; a context manager.

    With shards, of Parquet or of maps, records are written when their shard is full or all is done:
    a record that is on disk has its map on disk.

    Args:
        folder: where they go.
        records: "jsonl" (results.jsonl, a line a picture) or "parquet" (results-00000.parquet …).
        keeps_maps: whether maps are written beside them, to maps-00000.npz …
        resumed: go on behind what is there; otherwise records and shards of maps that are there
            are deleted.
        shard: records in a file.
    """

    def __init__(
        self,
        folder: Path,
        records: RecordFormat = "jsonl",
        *,
        keeps_maps: bool = False,
        resumed: bool = False,
        shard: int = SHARD,
    ) -> None:
        self.folder, self.shard = folder, shard
        self.records, self.keeps_maps = records, keeps_maps
        if records == "parquet":
            require_extra("parquet", "pyarrow")
        if not resumed:  # what an earlier, longer run left would pass for this one's
            for path in _record_files(folder):
                path.unlink()
        self._number = _next_shard(folder) if resumed else 0
        self._waiting: list[dict[str, Any]] = []
        self._kept: list[PictureExplanation] = []
        self._lines = None
        if records == "jsonl":
            _cut_torn_line(folder / LINES_NAME)
            # A file name that is no UTF-8 must not end the run; escaped, it is still valid JSON.
            self._lines = (folder / LINES_NAME).open(
                "a" if resumed else "w", encoding="utf-8", errors="backslashreplace"
            )

    @property
    def _in_shards(self) -> bool:
        return self.records == "parquet" or self.keeps_maps

    def add(self, record: dict[str, Any], explanation: PictureExplanation) -> None:
        """Add one picture's record, of plain JSON types, with its maps."""
        if self.keeps_maps:
            record["map_shard"] = f"maps-{self._number:05d}.npz"
            record["map_index"] = len(self._waiting)
            self._kept.append(explanation)
        self._waiting.append(record)
        if not self._in_shards or len(self._waiting) == self.shard:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        if self.keeps_maps:
            self._write_maps()
        if self._lines is not None:
            for record in self._waiting:
                self._lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._lines.flush()
        else:
            self._write_parquet()
        self._waiting, self._kept = [], []
        self._number += 1

    def _write_maps(self) -> None:
        """Write the maps of a shard; they have one shape, for as many classes of each picture."""
        path = self.folder / f"maps-{self._number:05d}.npz"
        names = [os.fsencode(record["file"]).decode("utf-8", "replace") for record in self._waiting]
        arrays = {
            "files": np.array(names),
            "class_ids": np.stack([one.class_ids for one in self._kept]),
            "maps": np.stack([one.maps for one in self._kept]),
        }
        versus = [one.versus_ids for one in self._kept if one.versus_ids is not None]
        if versus:  # of one run, all or none
            arrays["versus_ids"] = np.stack(versus)
        with replaced_file(path) as partial:
            np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]

    def _write_parquet(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        path = self.folder / f"results-{self._number:05d}.parquet"
        rows = [
            {**record, "file": os.fsencode(record["file"]).decode("utf-8", "replace")}
            for record in self._waiting
        ]
        with replaced_file(path) as partial:
            parquet.write_table(pa.Table.from_pylist(rows), partial)

    def close(self) -> None:
        """Write what waits, and end."""
        try:
            self.flush()
        finally:
            if self._lines is not None:
                self._lines.close()


def _shards(folder: Path) -> list[Path]:
    """Return the shards of records and of maps."""
    return [
        path
        for pattern in (_MAPS_PATTERN, _PARQUET_PATTERN)
        for path in folder.glob(pattern)
        if path.stem.rpartition("-")[2].isdecimal()
    ]


def _record_files(folder: Path) -> list[Path]:
    """Return all files of records that a run leaves."""
    lines = folder / LINES_NAME
    return [*_shards(folder), *([lines] if lines.is_file() else [])]


def _next_shard(folder: Path) -> int:
    taken = [int(path.stem.rpartition("-")[2]) for path in _shards(folder)]
    return max(taken, default=-1) + 1


def _cut_torn_line(path: Path) -> None:
    """Take off the line that a kill left unfinished."""
    if not path.is_file():
        return
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 2**16)
            stream.seek(start)
            end = stream.read(size - start).rfind(b"\n")
            if end >= 0:
                stream.truncate(start + end + 1)
                return
            size = start
        stream.truncate(0)


@dataclass(frozen=True)
class RecordedNames:
    """What the records in a folder name.

    Attributes:
        pictures: that were explained.
        files: in the folder that were written for them.
        outputs: what was written for each, as options of the command line.
        questions: which classes were explained.
    """

    pictures: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    questions: frozenset[RecordedQuestion] = frozenset()


def output_options(*, pictures: bool, maps: str | None) -> str:
    """Return the options of the command line that say what is written for each picture."""
    return ("--pictures" if pictures else "--no-pictures") + (f" --maps {maps}" if maps else "")


def recorded_names(folder: Path, records: RecordFormat) -> RecordedNames:
    """Return the names in the records of earlier runs.

    Raises:
        InputError: if the folder holds records of the other format, or they cannot be read.
        ManifestError: if what is there is no record.
    """
    shards = sorted(folder.glob(_PARQUET_PATTERN))
    other = bool(shards) if records == "jsonl" else (folder / LINES_NAME).is_file()
    if other:
        found = "parquet" if records == "jsonl" else "jsonl"
        raise InputError(
            f"{folder} holds records as {found}, not {records}; resume with --records {found}"
        )
    if records == "parquet":
        require_extra("parquet", "pyarrow")
        return _names_in(record for path in shards for record in _rows_of(path))
    path = folder / LINES_NAME
    try:
        _cut_torn_line(path)
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            return _names_in(map(json.loads, lines))
    except FileNotFoundError:
        return RecordedNames()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path} is no results.jsonl ({error!r:.80}); start anew") from None


def _names_in(records: Iterable[dict[str, Any]]) -> RecordedNames:
    pictures: set[str] = set()
    files: set[str] = set()
    outputs: set[str] = set()
    questions: set[RecordedQuestion] = set()
    for record in records:
        pictures.add(str(record["file"]))
        drawn = [
            explained[kind]
            for explained in record.get("explained") or ()
            for kind in ("overlay", "panel")
            if explained.get(kind)
        ]
        maps = "npz" if record.get("map_shard") else "png" if record.get("maps") else None
        files.update(drawn, record.get("maps") or ())
        outputs.add(output_options(pictures=bool(drawn), maps=maps))
        if record.get("explained"):
            questions.add(question_of(record))
    return RecordedNames(
        frozenset(pictures), frozenset(files), frozenset(outputs), frozenset(questions)
    )


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        wanted = {"file", "top", "explained", "maps", "map_shard"} & set(
            parquet.read_schema(path).names
        )
        table = parquet.read_table(path, columns=sorted(wanted))
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{path} cannot be read ({error!s:.80}); delete it") from None
    if "file" not in wanted:
        raise ManifestError(f"{path} has no column file; delete it")
    yield from table.to_pylist()
