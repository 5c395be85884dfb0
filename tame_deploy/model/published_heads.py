"""The public heads: TAME's snapshots on GitHub, T-TAME's checkpoints on the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from tame_deploy.artifact.directory import file_sha256
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.errors import DownloadError, InputError, require_extra
from tame_deploy.files import cache_directory
from tame_deploy.model.download import Progress, download, fetch_text, git_blob_id

__all__ = ["PUBLIC_HEADS", "PublicHead", "fetch_head"]

PublicHead = Literal["default", "tame", "t-tame"]
PUBLIC_HEADS: tuple[PublicHead, ...] = get_args(PublicHead)

GITHUB_REPOSITORY = "bmezaris/TAME"
HUB_REPOSITORY = "IDT-ITI/T-TAME-models"

#: The snapshots of TAME by backbone: file in the folder `snapshots`, and its git blob id.
TAME_SNAPSHOTS = {
    "vgg16": ("vgg16_TAME/epoch_8.pt", "3fdd75a50ff125e2c7b62dde742ca16702be715b"),
    "resnet50": ("resnet50_TAME/epoch_4.pt", "201ba8c1513b654b6dc5c682e56dd624a64c4376"),
}
#: The sha256 of T-TAME's checkpoints by backbone, as of May 2024.
T_TAME_CHECKPOINTS = {
    "vgg16": "854119f2a18dc6158e238ef06ac8e212a3d5687236f4a65a54ad46460a9d2964",
    "resnet50": "3084abb5d316e5944c457e02cf9d04b812a9d23c6a5db3224262729a2dab2820",
    "vit_b_16": "74be1a2517f8e5671610dd035287980715c32ae26bf8220318f26eb2e6caa100",
}
INSTEAD = "Without a network: pass --head PATH, or --head random to measure speed only"

_log = logging.getLogger("tame_deploy")


def fetch_head(
    backbone: str, which: PublicHead, progress: Progress | None = None
) -> tuple[Path, WeightsSource]:
    """Return the file of a public head and where it is from, downloaded if need be.

    `default` is TAME's, and T-TAME's for backbones that TAME has none for.

    Raises:
        InputError: if there is no such head for the backbone.
        DownloadError: if it is not there and cannot be had.
    """
    has_tame, has_t_tame = backbone in TAME_SNAPSHOTS, backbone in T_TAME_CHECKPOINTS
    if which != "t-tame" and has_tame:
        return _fetch_tame(backbone, progress)
    if which != "tame" and has_t_tame:
        return _fetch_t_tame(backbone)
    name = {"default": "public", "tame": "TAME", "t-tame": "T-TAME"}[which]
    known = TAME_SNAPSHOTS if which == "tame" else T_TAME_CHECKPOINTS
    other = "pass --head t-tame" if has_t_tame else "pass --head PATH"
    raise InputError(
        f"there is no {name} head for {backbone} (only for {', '.join(known)}); "
        f"{other}, --head cam for maps without training, or --head random to measure speed only"
    )


def _fetch_tame(backbone: str, progress: Progress | None) -> tuple[Path, WeightsSource]:
    name, known = TAME_SNAPSHOTS[backbone]
    mirror = os.environ.get("TAME_DEPLOY_GITHUB", "").rstrip("/")
    address = mirror or "https://raw.githubusercontent.com"

    def complaint(file: Path) -> str | None:
        found = git_blob_id(file)
        if found == known:
            return None
        if found in (_read_note(note), _listed_blob_id(mirror, name)):
            note.write_text(found, encoding="ascii")  # it stays what GitHub vouched for
            return None
        return f"git blob id {found[:12]}, expected {known[:12]} or what GitHub lists today"

    url = f"{address}/{GITHUB_REPOSITORY}/main/snapshots/{name}"
    target = cache_directory() / "heads" / name
    note = target.with_name(f"{target.name}.blob-id")
    if target.is_file() and (found := complaint(target)):
        raise DownloadError(f"{target} is damaged: {found}; remove it, and it is downloaded anew")
    try:
        path = download(url, target, complaint, progress)
    except DownloadError as error:
        raise DownloadError(f"{error}. {INSTEAD}") from None
    return path, _source("TAME", path, name, known_file=git_blob_id(path) == known)


def _read_note(note: Path) -> str | None:
    """Return the blob id that GitHub listed when a newer snapshot was taken, if one was."""
    with suppress(OSError, UnicodeDecodeError):
        return note.read_text(encoding="ascii")
    return None


def _listed_blob_id(mirror: str, name: str) -> str | None:
    """Return the blob id that GitHub lists for a snapshot, or None where it cannot be asked."""
    folder, _, file = name.partition("/")
    address = mirror or "https://api.github.com"
    url = f"{address}/repos/{GITHUB_REPOSITORY}/contents/snapshots/{folder}?ref=main"
    with suppress(DownloadError, ValueError, KeyError, TypeError):
        return next(
            (str(one["sha"]) for one in json.loads(fetch_text(url)) if one["name"] == file), None
        )
    return None


def _fetch_t_tame(backbone: str) -> tuple[Path, WeightsSource]:
    """Have the hub's own library bring a checkpoint: its cache, tokens, mirrors, offline mode."""
    name, known = f"{backbone}_TTAME.ckpt", T_TAME_CHECKPOINTS[backbone]
    found = _fetch_from_hub(name)
    if not found:
        raise DownloadError(
            f"{HUB_REPOSITORY} has no {name} on the Hugging Face hub; look for it there, "
            "and pass --head PATH"
        )
    digests = {path: file_sha256(path) for path in found.values()}
    inside, path = min(found.items(), key=lambda item: digests[item[1]] != known)
    if digests[path] != known and not _is_vouched_for(path, digests[path]):
        raise DownloadError(
            f"{HUB_REPOSITORY}/{name} arrived with sha256 {digests[path][:16]}…, which is neither "
            f"the known {known[:16]}… nor what the hub announced{_throw_away(path)}. "
            f"Try again; or download it yourself and pass --head PATH"
        )
    return path, _source("T-TAME", path, inside, known_file=digests[path] == known)


def _fetch_from_hub(name: str) -> dict[str, Path]:
    """Return the repository's files of a name by where they are in it, in whichever folders."""
    require_extra("export", "huggingface_hub")
    from huggingface_hub import HfApi, hf_hub_download

    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        # `list_repo_files` would try again for half a minute where there is no network.
        listed = HfApi(endpoint=hub).model_info(HUB_REPOSITORY).siblings or []
        places = [file.rfilename for file in listed if file.rfilename.split("/")[-1] == name]
        return {
            place: Path(hf_hub_download(HUB_REPOSITORY, place, endpoint=hub)) for place in places
        }
    # The library lets errors of its own, of the system and of its transport through.
    except Exception as error:
        if cached := _cached_from_hub(name):
            return cached
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
        raise DownloadError(
            f"cannot download {name} of {HUB_REPOSITORY} from {hub}: "
            f"{reason.rstrip('.'):.200}. {INSTEAD}"
        ) from None


def _cached_from_hub(name: str) -> dict[str, Path]:
    """Return what the library's cache has of the files of a name, without asking the hub."""
    from huggingface_hub import snapshot_download

    with suppress(OSError):
        folder = Path(snapshot_download(HUB_REPOSITORY, allow_patterns=[], local_files_only=True))
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob(name))}
    return {}


def _is_vouched_for(path: Path, sha256: str) -> bool:
    """Whether a file is what the hub announced: its cache links to a file of that digest's name."""
    return path.is_symlink() and Path(os.readlink(path)).name in (sha256, git_blob_id(path))


def _throw_away(path: Path) -> str:
    """Remove a file and what it links to in the hub's cache; say so if that was possible."""
    with suppress(OSError):
        if path.is_symlink():
            (path.parent / os.readlink(path)).unlink(missing_ok=True)
        path.unlink()
        return "; it was thrown away"
    return f"; remove {path}"


def _source(paper: str, path: Path, name: str, *, known_file: bool) -> WeightsSource:
    sha256 = file_sha256(path)
    _log.info("the head of %s is for academic, non-commercial use only", paper)
    if not known_file:
        _log.warning(
            "%s of %s is not the file that this version of tame-deploy knows but a newer one, with "
            "sha256 %s, which the manifest records",
            name,
            paper,
            sha256,
        )
    licence = f"academic, non-commercial use only ({paper}, CERTH-ITI)"
    return WeightsSource(f"{paper} {name}", sha256=sha256, licence=licence)
