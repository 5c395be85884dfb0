"""Holding a backend to what the PyTorch network gave for the same pictures.

The reference values travel in the artifact (`parity.npz`), so the check runs wherever the artifact
does, without torch and without the checkpoints.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.manifest import ParityReport
from tame_deploy.artifact.types import FLAT_RANGE, MapKind
from tame_deploy.errors import ManifestError, ParityError
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.predict.predictor import Predictions, Predictor

__all__ = [
    "PARITY_FILE",
    "ParityReference",
    "check_answers",
    "check_parity",
    "check_roughly",
    "count_same",
    "is_flat",
]

PARITY_FILE = "parity.npz"

#: Largest error of a logit, as a share of the range of the picture's logits.
LOGIT_TOLERANCE = 1e-3
#: Largest error of a map, as a share of its range; and the least correlation.
MAP_TOLERANCE = 5e-3
MAP_CORRELATION = 0.9999
#: How many times the recorded error a graph of lower precision may show on another machine.
RECORDED_FACTOR = 1.5
#: What no precision does: logits further off, or maps less alike.
ROUGH_LOGITS, ROUGH_MAPS = 0.2, 0.8
#: An archive that unpacks to more is no reference but a bomb.
MAX_REFERENCE_BYTES = 2**30
#: Below this difference, maps of two pictures or two classes count as the same.
SAME_MAP = 1e-3


@dataclass(frozen=True)
class ParityReference:
    """Inputs, and what the unfolded PyTorch network makes of them.

    Attributes:
        images: the graph's `images` for N pictures.
        class_ids: int64 (N, K), all of them named, the first being the most likely class.
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
            and bool(((self.class_ids >= 0) & (self.class_ids < manifest.classes)).all())
        )


def check_parity(
    backend: Backend,
    reference: ParityReference,
    artifact: Artifact,
    *,
    batches: Sequence[int] | None = None,
    slack: float = 1.0,
) -> ParityReport:
    """Run the reference's pictures one by one and together, and compare.

    A graph of lower precision is held to the errors that its manifest records, if it does.

    Args:
        backend: what is compared.
        reference: what PyTorch gave.
        artifact: whose reference it is.
        batches: how many pictures at a time, repeated where there are fewer; one, and all.
        slack: how many times the tolerances a float32 graph may use.

    Raises:
        ParityError: naming the output and the place of the largest error beyond tolerance.
    """
    graph, exact = artifact.manifest.graph, artifact.manifest.precision == "fp32"
    predictor = Predictor.of(artifact.manifest, backend)
    selectable = graph.explain == "selectable"
    runs = []
    for batch in sorted(set(batches or (1, len(reference.images)))):
        some = reference.repeated(batch)
        found = predictor.predict(some.images, some.class_ids if selectable else None)
        runs.append(_Comparison(some, found, graph.maps))
        if selectable:
            _check_ranking(predictor, some)
    for run in runs if exact else ():
        run.require_within_tolerance(slack)
    whole = runs[-1]
    report = ParityReport(
        pictures=len(whole.logits),
        top1_agreement=min(run.top1_agreement for run in runs),
        logit_error=max(run.logit_error for run in runs),
        map_error=max(run.map_error for run in runs),
        map_correlation=min(run.map_correlation for run in runs),
        flat_maps=sum(is_flat(heat, graph.maps) for row in whole.maps for heat in row),
        same_for_pictures=count_same(whole.maps[: len(reference.images), 0]),
        same_for_classes=sum(count_same(row) for row in whole.maps),
    )
    if not exact and artifact.manifest.parity is not None:
        _require_as_recorded(report, artifact.manifest.parity)
    return report


def check_answers(backend: Backend, artifact: Artifact, *, roughly: bool = False) -> None:
    """Hold a backend to the artifact's own reference, if it carries one.

    Args:
        backend: what is checked.
        artifact: whose graph it runs.
        roughly: refuse only what is grossly wrong, as where a lower precision was asked for.

    Raises:
        ParityError: if it answers otherwise.
        ManifestError: if the reference cannot be read.
    """
    if PARITY_FILE not in artifact.manifest.files:
        return
    reference = ParityReference.load(artifact)
    if roughly:
        check_roughly(backend, reference, artifact)
    else:
        check_parity(backend, reference, artifact)


def check_roughly(
    backend: Backend,
    reference: ParityReference,
    artifact: Artifact,
    *,
    batches: Sequence[int] | None = None,
) -> ParityReport:
    """Measure as `check_parity` does, and refuse only what is grossly wrong.

    It is for a backend that was asked to compute in a lower precision than the artifact's.

    Raises:
        ParityError: if it answers quite otherwise.
    """
    manifest = replace(artifact.manifest, precision="fp16", parity=None)  # nothing to hold it to
    loose = replace(artifact, manifest=manifest)
    found = check_parity(backend, reference, loose, batches=batches)
    if found.logit_error > ROUGH_LOGITS or found.map_correlation < ROUGH_MAPS:
        raise ParityError(
            f"logits are off by {found.logit_error:.0%} of their range and maps correlate by "
            f"{found.map_correlation:.2f} with PyTorch's"
        )
    return found


def _require_as_recorded(found: ParityReport, recorded: ParityReport) -> None:
    """Integer kernels differ between machines, some of which saturate; a little is no matter."""
    if (
        found.logit_error <= RECORDED_FACTOR * recorded.logit_error + LOGIT_TOLERANCE
        and found.map_error <= RECORDED_FACTOR * recorded.map_error + MAP_TOLERANCE
    ):
        return
    raise ParityError(
        f"logits are off by {found.logit_error:.2%} and maps by {found.map_error:.2%} of their "
        f"range here; where this artifact was made it was {recorded.logit_error:.2%} and "
        f"{recorded.map_error:.2%}. This machine's kernels compute it otherwise; quantize here"
    )


class _Comparison:
    """One batch of predictions beside the reference."""

    def __init__(self, reference: ParityReference, found: Predictions, kind: MapKind) -> None:
        self.logits, self.maps = found.logits, found.maps
        self.explained = found.class_ids
        self.expected_ids = reference.class_ids
        self.expected_logits = reference.logits
        self.expected_maps = reference.maps
        if self.maps.shape != self.expected_maps.shape:
            raise ParityError(
                f"maps have shape {self.maps.shape}; the PyTorch network gives "
                f"{self.expected_maps.shape}"
            )
        self.logit_errors = _shares(self.logits, self.expected_logits, (1,))
        # A min-max map is meant to span [0, 1]; one that does not is flat, and judged by that span.
        self.map_errors = _shares(self.maps, self.expected_maps, (2, 3), float(kind == "minmax"))
        self.logit_error = float(self.logit_errors.max())
        self.map_error = float(self.map_errors.max())
        same = self.logits.argmax(1) == self.expected_logits.argmax(1)
        self.top1_agreement = float(same.mean())
        self.map_correlation = min(
            _correlation(heat, expected, kind)
            for row, expected_row in zip(self.maps, self.expected_maps, strict=True)
            for heat, expected in zip(row, expected_row, strict=True)
        )

    def require_within_tolerance(self, slack: float) -> None:
        """Raise a ParityError that names the worst place, if anything is beyond tolerance."""
        batch = len(self.logits)
        self._require("logits", self.logits, self.expected_logits, self.logit_errors, slack)
        if (self.explained != self.expected_ids).any():
            place = _worst((self.explained != self.expected_ids).astype(float))
            raise ParityError(
                f"explained{list(place)} is class {self.explained[place]} at batch {batch}; "
                f"the PyTorch network explains {self.expected_ids[place]}"
            )
        self._require("maps", self.maps, self.expected_maps, self.map_errors, slack)
        least = 1 - slack * (1 - MAP_CORRELATION)
        if not self.map_correlation >= least:
            raise ParityError(
                f"maps correlate with the PyTorch network's by {self.map_correlation:.5f} at "
                f"batch {batch}; expected at least {least:g}"
            )

    def _require(
        self,
        name: str,
        found: NDArray[Any],
        expected: NDArray[Any],
        errors: NDArray[Any],
        slack: float,
    ) -> None:
        tolerance = slack * (LOGIT_TOLERANCE if name == "logits" else MAP_TOLERANCE)
        if errors.max() <= tolerance:  # false for NaN too
            return
        place = _worst(errors)
        raise ParityError(
            f"{name}{list(place)} is {found[place]:.5g} at batch {len(found)}; the PyTorch network "
            f"gives {expected[place]:.5g} (off by {errors[place]:.2%} of the range, tolerance "
            f"{tolerance:.2%}). Nothing was kept that disagrees; please report the backbone"
        )


def _check_ranking(predictor: Predictor, reference: ParityReference) -> None:
    """-1 in place j must name the graph's own j-th most likely class."""
    ranks = predictor.graph.ranks
    found = predictor.predict(
        reference.images, predictor.class_ids(len(reference.images), top_k=ranks)
    )
    explained, logits = found.class_ids, found.logits
    best = np.argsort(-logits, axis=1, kind="stable")[:, :ranks]
    # By their logits, because classes that tie have no order.
    named, likeliest = (np.take_along_axis(logits, ids, 1) for ids in (explained, best))
    if (named != likeliest).any():
        raise ParityError(
            f"-1 gave classes {explained.tolist()}; the likeliest are {best.tolist()}"
        )


def _shares(
    found: NDArray[Any], expected: NDArray[Any], axes: tuple[int, ...], least: float = 0.0
) -> NDArray[np.float64]:
    """Return absolute errors as shares of the expected values' range; NaN counts as infinite.

    Where the range is below `FLAT_RANGE` of the magnitude, or `least`, it is that instead: the
    range of a flat map is rounding noise.
    """
    span = expected.max(axes, keepdims=True) - expected.min(axes, keepdims=True)
    floor = np.maximum(np.abs(expected).max(axes, keepdims=True) * FLAT_RANGE, least)
    span = np.maximum(span, np.maximum(floor, np.finfo(np.float32).tiny))
    errors = np.abs(found.astype(np.float64) - expected) / span
    return np.where(np.isnan(errors), np.inf, errors)


def _worst(errors: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(errors.argmax(), errors.shape))


def is_flat(heat: NDArray[Any], kind: MapKind) -> bool:
    """Whether a map's range is too small to mean anything."""
    span = float(heat.max() - heat.min())
    if kind == "minmax":
        return span < 0.999  # the graph stretches every other map to the whole of [0, 1]
    return span <= FLAT_RANGE * float(np.abs(heat).max())


def _correlation(first: NDArray[Any], second: NDArray[Any], kind: MapKind) -> float:
    """Return Pearson's correlation of two maps; two flat ones agree."""
    if is_flat(first, kind) or is_flat(second, kind):
        return 1.0 if is_flat(first, kind) == is_flat(second, kind) else 0.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def count_same(maps: NDArray[Any]) -> int:
    """Return how many pairs of neighbouring maps, (N, h, w), are the same."""
    return sum(
        bool(np.abs(a - b).max() <= SAME_MAP * max(np.ptp(a), np.ptp(b)))
        for a, b in itertools.pairwise(maps)
    )
