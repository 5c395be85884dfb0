"""An artifact: a directory with a manifest, written all at once and checked when it is opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tame_deploy.artifact.manifest import Manifest
from tame_deploy.errors import ArtifactError, ChecksumError, ManifestError

__all__ = [
    "ENGINES_FOLDER",
    "MANIFEST_NAME",
    "Artifact",
    "check_output",
    "create_artifact",
    "file_sha256",
    "open_artifact",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
#: Compiled engines lie there; each has its own sidecar, because they come and go.
ENGINES_FOLDER = "engines"

#: All that tame-deploy writes into one; a directory with anything else is not replaced.
_OWN_NAMES = frozenset(
    {MANIFEST_NAME, MODEL_NAME, MODEL_NAME + ".data", "labels.txt", "parity.npz"}
    | {"calibration.json", "quantization.json", "before-after.png", "curve.png", ENGINES_FOLDER}
)
MAX_MANIFEST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk whose manifest and checksums have been verified."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists.

        Raises:
            ManifestError: if the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise ManifestError(f"{self.path} lists no file {name!r}")
        return self.path / name

    @property
    def model(self) -> Path:
        """Path of the ONNX graph."""
        return self.file(MODEL_NAME)

    def copy_files(self, folder: Path, *, but: Collection[str] = ()) -> None:
        """Copy the files that the manifest lists, but for some, into a folder."""
        for name in self.manifest.files.keys() - set(but):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file(name), target)

    def read_labels(self) -> tuple[str, ...]:
        """Return the class names, one a class.

        Raises:
            ManifestError: if their number is not the number of classes.
        """
        try:
            text = self.file(self.manifest.labels).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{self.manifest.labels} cannot be read: {error}") from None
        labels = tuple(text.removesuffix("\n").split("\n"))
        if len(labels) != self.manifest.classes:
            raise ManifestError(
                f"{self.manifest.labels} has {len(labels)} lines; "
                f"expected one for each of the {self.manifest.classes} classes"
            )
        return labels


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Open an artifact; every file is checked before any other library sees a byte of it.

    Raises:
        ArtifactError: if there is no artifact there.
        ManifestError: if the manifest is malformed or names a path outside the artifact.
        IncompatibleArtifactError: if it was written by a newer version.
        ChecksumError: if a file is missing, truncated or altered.
    """
    if not os.fspath(path):  # which Path takes for the working directory
        raise ArtifactError("found an empty path; expected the directory of an artifact")
    root = Path(path)
    try:
        is_directory, found = root.is_dir(), "a file" if root.exists() else "nothing"
    except OSError as error:
        raise ArtifactError(f"{root} cannot be read: {error.strerror}") from None
    if not is_directory:
        raise ArtifactError(
            f"{root}: expected an artifact directory, found {found}. "
            "Make one: tame-deploy export --backbone NAME -o DIR"
        )
    manifest = _read_manifest(root)
    for name, expected in manifest.files.items():
        found = file_sha256(_contained(root, name))
        if found != expected:
            raise ChecksumError(
                f"{root / name} was altered: its sha256 is {found[:16]}…, "
                f"the manifest says {expected[:16]}…. Export the artifact again"
            )
    return Artifact(root, manifest)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST_NAME
    try:
        # A pipe would be waited for, and a device read without end.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ManifestError(f"{path} cannot be read: it is no regular file")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{path} is over {MAX_MANIFEST_BYTES // 2**20} MiB; no manifest is")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{root} is not an artifact: it has no {MANIFEST_NAME}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    try:
        return Manifest.from_json(text)
    except ArtifactError as error:
        raise type(error)(f"{path}: {error}") from None


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write manifest.json into an artifact that is being made.

    Raises:
        ArtifactError: if it could not be read back.
        OSError: if it cannot be written.
    """
    text = manifest.to_json()
    Manifest.from_json(text)
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")


def _contained(root: Path, name: str) -> Path:
    """Resolve a listed name inside the artifact, refusing every way out of it."""
    parts = PurePosixPath(name)
    lexically_inside = name and not parts.is_absolute() and ".." not in parts.parts
    if not lexically_inside or "\\" in name or ":" in name or "\0" in name:
        raise ManifestError(f"{root}: the manifest names {name!r}, outside the artifact")
    path = root / name
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # ValueError: a name that no file can have
        shown = json.dumps(str(path))  # in one line, whatever is listed
        raise ChecksumError(f"{shown} is missing. Export the artifact again") from None
    if not resolved.is_relative_to(root.resolve()):
        raise ManifestError(f"{path} is a link to {resolved}, outside the artifact")
    if not resolved.is_file():
        raise ChecksumError(f"{path} is not a file. Export the artifact again")
    return path


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, lowercase hexadecimal.

    Raises:
        ArtifactError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


@contextmanager
def create_artifact(output: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a staging directory that becomes `output` if the block succeeds, and vanishes if not.

    A kill in the middle leaves a hidden `.NAME.partial-…` beside the output; the next export
    removes it.

    Raises:
        ArtifactError: if `output` exists (and `overwrite` is off or it is no artifact), or the
            place is full or read-only.
    """
    target = Path(os.path.abspath(output))
    with _os_errors_as_artifact_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target)
        _check_replaceable(target, overwrite)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        try:
            staging.chmod(0o755)
            (staging / ".pid").write_text(str(os.getpid()))
            yield staging
            (staging / ".pid").unlink()
            _sync_files(staging)
            _check_replaceable(target, overwrite)  # much can happen while a network is exported
            _swap(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


@contextmanager
def _os_errors_as_artifact_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"cannot write {target}: {reason}. Choose another place with -o, or make room there"
        ) from error


def check_output(output: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Check early that an artifact may be written there.

    Raises:
        ArtifactError: if something is there that may not be replaced.
    """
    target = Path(os.path.abspath(output))
    with _os_errors_as_artifact_errors(target):
        _check_replaceable(target, overwrite)


def _check_replaceable(target: Path, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise ArtifactError(f"{target} is not a directory; choose another output with -o")
    is_artifact = (target / MANIFEST_NAME).is_file()
    if any(target.iterdir()) and not is_artifact:
        raise ArtifactError(
            f"{target} holds files that are no artifact, and is never replaced; "
            "choose another output with -o"
        )
    if is_artifact and not overwrite:
        raise ArtifactError(f"{target} exists; pass --overwrite to replace it, or another -o")
    foreign = sorted(path.name for path in target.iterdir() if path.name not in _OWN_NAMES)
    if foreign:
        raise ArtifactError(
            f"{target} holds {', '.join(foreign[:3])}, no part of the artifact, and is not "
            "replaced; move that away, or choose another output with -o"
        )


def _swap(staging: Path, target: Path) -> None:
    """Put the finished directory in place; `_recover` mends a kill between the two renames."""
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists() and any(target.iterdir()):
        target.rename(replaced)
    staging.rename(target)
    _sync_directory(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _recover(target: Path) -> None:
    """Clear what a killed export left: bring back a replaced artifact, drop stale partial ones."""
    replaced = target.with_name(f".{target.name}.replaced")
    if replaced.exists():
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(target)
    for partial in target.parent.glob(f".{target.name}.partial-*"):
        if not _is_alive(partial / ".pid"):
            shutil.rmtree(partial, ignore_errors=True)


def _is_alive(pid_file: Path) -> bool:
    if os.name != "posix":
        return True  # there, signal 0 is no question but a signal
    try:
        os.kill(int(pid_file.read_text()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _sync_files(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return  # directories cannot be opened there
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
