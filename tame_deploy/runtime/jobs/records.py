"""Results on disk: one record a picture, as JSON lines or Parquet, and maps in shards or alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.closing import Closing
from tame_deploy.errors import InputError, ManifestError, require_extra
from tame_deploy.runtime.explain.explanation import Explanation

__all__ = ["LINES_NAME", "MapFormat", "RecordFormat", "Records", "done_before"]

RecordFormat: TypeAlias = Literal["jsonl", "parquet"]
MapFormat: TypeAlias = Literal["npz", "png"]

LINES_NAME = "results.jsonl"
#: Records, and maps, that are written to one file.
SHARD = 1000


class Records(Closing):
    """Writes records, and maps where they are wanted; a context manager.

    With shards, of Parquet or of maps, records are written when their shard is full or all is done:
    a record that is on disk has its map on disk.

    Args:
        folder: where they go.
        records: "jsonl" (results.jsonl, a line a picture) or "parquet" (results-00000.parquet …).
        maps: "npz" (maps-00000.npz …), "png" (one grey picture a map), or None.
        resumed: go on behind what is there.
        shard: records in a file.
    """

    def __init__(
        self,
        folder: Path,
        records: RecordFormat = "jsonl",
        maps: MapFormat | None = None,
        *,
        resumed: bool = False,
        shard: int = SHARD,
    ) -> None:
        self.folder, self.shard = folder, shard
        self.records, self.maps = records, maps
        if records == "parquet":
            require_extra("parquet", "pyarrow")
        self._number = _next_shard(folder) if resumed else 0
        self._waiting: list[dict[str, Any]] = []
        self._kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._lines = None
        if records == "jsonl":
            _cut_torn_line(folder / LINES_NAME)
            # A file name that is no UTF-8 must not end the run; escaped, it is still valid JSON.
            self._lines = (folder / LINES_NAME).open(
                "a" if resumed else "w", encoding="utf-8", errors="backslashreplace"
            )

    @property
    def _in_shards(self) -> bool:
        return self.records == "parquet" or self.maps == "npz"

    def add(self, record: dict[str, Any], explanation: Explanation, stem: str) -> None:
        """Add one picture's record, with its maps.

        Args:
            record: plain JSON types.
            explanation: of this one picture.
            stem: file name without its end, for maps as pictures.
        """
        if self.maps == "png":
            record["maps"] = self._write_pngs(explanation, stem)
        if self.maps == "npz":
            record["map_shard"] = f"maps-{self._number:05d}.npz"
            record["map_index"] = len(self._waiting)
            self._kept.append((explanation.class_ids[0], explanation.maps[0]))
        self._waiting.append(record)
        if not self._in_shards or len(self._waiting) == self.shard:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        if self.maps == "npz":
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
        with _replaced(path) as partial:
            np.savez_compressed(
                partial,
                files=np.array(names),
                class_ids=np.stack([class_ids for class_ids, _ in self._kept]),
                maps=np.stack([maps for _, maps in self._kept]),
            )

    def _write_pngs(self, explanation: Explanation, stem: str) -> list[str]:
        names = []
        for place in range(explanation.class_ids.shape[1]):
            suffix = f"-{place + 1}" if explanation.class_ids.shape[1] > 1 else ""
            name = f"{stem}{suffix}-map.png"
            grey = np.rint(explanation.heat(0, place) * 255).astype(np.uint8)
            Image.fromarray(grey).save(self.folder / name)
            names.append(name)
        return names

    def _write_parquet(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        path = self.folder / f"results-{self._number:05d}.parquet"
        rows = [
            {**record, "file": os.fsencode(record["file"]).decode("utf-8", "replace")}
            for record in self._waiting
        ]
        with _replaced(path) as partial:
            parquet.write_table(pa.Table.from_pylist(rows), partial)

    def close(self) -> None:
        """Write what waits, and end."""
        try:
            self.flush()
        finally:
            if self._lines is not None:
                self._lines.close()


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """Yield a file beside a path, which takes its place when it is written whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _next_shard(folder: Path) -> int:
    taken = [
        int(path.stem.rpartition("-")[2])
        for pattern in ("maps-[0-9]*.npz", "results-[0-9]*.parquet")
        for path in folder.glob(pattern)
        if path.stem.rpartition("-")[2].isdecimal()
    ]
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


def done_before(folder: Path, records: RecordFormat) -> frozenset[str]:
    """Return the names of the pictures whose records are in a folder.

    Raises:
        ManifestError: if what is there cannot be read.
    """
    if records == "parquet":
        return frozenset(_names_in_parquet(sorted(folder.glob("results-[0-9]*.parquet"))))
    path = folder / LINES_NAME
    names = set()
    try:
        _cut_torn_line(path)
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            names = {str(json.loads(line)["file"]) for line in lines}
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} is no results.jsonl ({error!r:.80}); start anew") from None
    return frozenset(names)


def _names_in_parquet(paths: Sequence[Path]) -> set[str]:
    require_extra("parquet", "pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    names: set[str] = set()
    for path in paths:
        try:
            table = parquet.read_table(path, columns=["file"])
        except (OSError, pa.ArrowException) as error:
            raise ManifestError(f"{path} cannot be read ({error!s:.80}); delete it") from None
        names.update(table.column("file").to_pylist())
    return names
