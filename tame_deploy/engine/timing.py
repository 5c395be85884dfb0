"""Which tactics were fastest in earlier builds, so that the next one need not time them again."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from tame_deploy.errors import BuildError
from tame_deploy.files import replaced_file

__all__ = ["TimingCache"]

_log = logging.getLogger("tame_deploy.tensorrt")


class TimingCache:
    """A file of TensorRT's timings; processes that build at once add to it in turns.

    Args:
        folder: where it is kept.
        version: of TensorRT, to which timings belong.
        device: name of the GPU, likewise.
    """

    def __init__(self, folder: Path, version: str, device: str) -> None:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{version}-{device}")
        self.path = folder / f"{name}.timing"

    def load_into(self, settings: Any) -> None:
        """Give a builder's configuration what is known.

        Raises:
            BuildError: if it is refused.
        """
        known = settings.create_timing_cache(self._read())
        if known is None:  # written by another build of the library: begin anew
            known = settings.create_timing_cache(b"")
        if known is None or not settings.set_timing_cache(known, False):
            raise BuildError(f"{self.path} was refused; delete it, or pass --no-timing-cache")

    def save_from(self, settings: Any) -> None:
        """Add what a build has found to what others have written meanwhile.

        A folder that cannot be written costs the next build time, and not this one its result.
        """
        try:
            self._add(settings)
        except OSError as error:
            _log.warning("timings are not kept: %s", error)

    def _add(self, settings: Any) -> None:
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            found = settings.get_timing_cache()
            others = settings.create_timing_cache(self._read())
            if others is not None:
                found.combine(others, True)
            with replaced_file(self.path) as stream:
                stream.write(bytes(found.serialize()))

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""
