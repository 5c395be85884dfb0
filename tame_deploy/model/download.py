"""Downloads into a cache: resumed where they stopped, checked before they count."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tame_deploy.artifact.directory import file_sha256
from tame_deploy.errors import DownloadError

__all__ = ["Check", "Progress", "begins_with_sha256", "download", "fetch_text", "git_blob_id"]

#: Called with (bytes so far, bytes in all or None).
Progress = Callable[[int, "int | None"], None]

#: Told the whole file; returns what it is and what was expected, or None if it is the right one.
Check = Callable[[Path], "str | None"]

TIMEOUT_S = 30
MAX_TEXT_BYTES = 65536


def fetch_text(url: str) -> str:
    """Return a small text file.

    Raises:
        DownloadError: if it cannot be had.
    """
    try:
        with _open(url, {}) as response:
            return str(response.read(MAX_TEXT_BYTES).decode("utf-8"))
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise DownloadError(f"cannot download {url}: {_reason(error)}") from None


def begins_with_sha256(expected: str) -> Check:
    """Return a check of a file's sha256 in hexadecimal, whole or its first eight digits or more."""
    if not re.fullmatch("[0-9a-f]{8,64}", expected):
        raise ValueError(f"sha256 is {expected!r}; expected at least 8 hexadecimal digits")

    def complaint(file: Path) -> str | None:
        found = file_sha256(file)
        if found.startswith(expected):
            return None
        return f"sha256 {found[:16]}…, expected {expected[:16]}…"

    return complaint


def git_blob_id(file: Path) -> str:
    """Return the SHA-1 by which git, and so GitHub, knows a file's bytes."""
    digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def download(url: str, target: Path, check: Check, progress: Progress | None = None) -> Path:
    """Download `url` to `target`, unless it is already there.

    What an interrupted download left in `target`.part is resumed.

    Args:
        url: http or https address.
        target: where the file goes; appears only when complete and checked.
        check: whether it is the right file.
        progress: told how far it is.

    Raises:
        DownloadError: if the server cannot be reached, answers an error, or sends other bytes.
    """
    if target.is_file():
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part, progress)
        if complaint := check(part):
            part.unlink()
            raise DownloadError(f"{url} arrived with {complaint}; it was thrown away. Try again")
        part.replace(target)
    except (OSError, HTTPException) as error:
        kept = f"; {part.stat().st_size >> 20} MiB kept to resume from" if part.is_file() else ""
        raise DownloadError(f"cannot download {url}: {_reason(error)}{kept}") from None
    return target


def _open(url: str, headers: dict[str, str]) -> Any:
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"cannot download {url}: expected an http or https address")
    request = urllib.request.Request(url, headers={"User-Agent": "tame-deploy", **headers})  # noqa: S310
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection, and only its code is wanted
        raise


def _receive(url: str, part: Path, progress: Progress | None) -> None:
    done = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        response = _open(url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        return  # nothing left to send: the checksum decides whether the part is the whole
    with response:
        if response.status != 206:  # the server ignores ranges and starts over
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else None
        with part.open("ab" if done else "wb") as stream:
            while block := response.read(2**18):
                stream.write(block)
                done += len(block)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection closed after {done} of {total} bytes")


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
