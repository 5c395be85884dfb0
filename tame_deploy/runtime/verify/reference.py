"""What the PyTorch network gave for a few pictures, as `parity.npz` in the artifact holds it."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.contrast import decode_contrast, is_question
from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.manifest import Manifest
from tame_deploy.errors import ManifestError

__all__ = ["PARITY_FILE", "ParityReference"]

PARITY_FILE = "parity.npz"
#: An archive that unpacks to more is no reference but a bomb.
MAX_REFERENCE_BYTES = 2**30


@dataclass(frozen=True)
class ParityReference:
    """Inputs, and what the unfolded PyTorch network makes of them.

    Attributes:
        images: the graph's `images` for N pictures.
        class_ids: int64 (N, K), all of them named, the first being the most likely class; also
            contrasts, where the graph has them.
        logits: float32 (N, C).
        maps: float32 (N, K, h, w), finished as the graph's are.
    """

    images: NDArray[Any]
    class_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    maps: NDArray[np.float32]

    def repeated(self, count: int) -> ParityReference:
        """Return the reference for `count` pictures: the first, or all over and over."""
        rows = np.arange(count) % len(self.images)
        return ParityReference(
            self.images[rows], self.class_ids[rows], self.logits[rows], self.maps[rows]
        )

    def save(self, path: Path) -> None:
        """Write the reference as .npz."""
        np.savez_compressed(path, **asdict(self))

    @classmethod
    def load(cls, artifact: Artifact) -> ParityReference:
        """Read the reference of an artifact.

        Raises:
            ManifestError: if the artifact has none, or its arrays do not fit together.
        """
        path = artifact.file(PARITY_FILE)
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MAX_REFERENCE_BYTES:
                raise ManifestError(f"{path} unpacks to {size >> 20} MiB; no reference does")
            with np.load(path, allow_pickle=False) as stored:
                reference = cls(**{name: stored[name] for name in cls.__dataclass_fields__})
        except ManifestError:
            raise
        # zipfile, zlib and numpy answer damaged archives with nearly any exception there is.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ManifestError(f"{path} cannot be read ({reason:.100}). Export again") from None
        if not reference.is_consistent(artifact):
            raise ManifestError(f"{path} does not fit the manifest's tensors. Export again")
        return reference

    def is_consistent(self, artifact: Artifact) -> bool:
        """Whether the arrays have the shapes and types that the artifact's manifest implies."""
        manifest, count = artifact.manifest, len(self.images)
        size = manifest.outputs[2].shape[2:]
        chosen = self.class_ids.shape[1:]
        return (
            count > 0
            and self.images.dtype == np.dtype(manifest.image.dtype)
            and self.images.shape == manifest.image.input_shape(count)
            and self.class_ids.dtype == np.int64
            and len(chosen) == 1
            and chosen[0] > 0
            and len(self.class_ids) == count
            and self.logits.shape == (count, manifest.classes)
            and self.maps.shape == (count, *chosen, *size)
            and self.logits.dtype == self.maps.dtype == np.float32
            and self._names_classes(manifest)
        )

    def _names_classes(self, manifest: Manifest) -> bool:
        if not manifest.graph.contrast and (self.class_ids < 0).any():
            return False
        own, _ = decode_contrast(self.class_ids, manifest.classes)
        return bool(((own >= 0) & is_question(self.class_ids, manifest.classes)).all())
