"""Evaluating explanations: pictures stream by once, in batches."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.types import MAX_UNREADABLE, ImageSpec, Task
from tame_deploy.data.labelled import Pictures
from tame_deploy.data.sources import check_share
from tame_deploy.errors import InputError
from tame_deploy.evaluation.result import Evaluation
from tame_deploy.metrics.evaluated_model import EvaluatedModel
from tame_deploy.metrics.families import METRICS, ExplainedBatch, check_metrics
from tame_deploy.picture.preprocess import prepare, prepared_levels, shares_of, size_of
from tame_deploy.runtime.predict.predictor import Predictions

__all__ = ["EvaluationOptions", "Method", "PreparedBatch", "evaluate", "prepared_batches"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How pictures are evaluated.

    Attributes:
        metrics: names of families of metrics.
        limit: how many pictures at most; all by default.
        batch_size: how many at a time.
        max_unreadable: share in [0, 1] that may be unreadable.
    """

    metrics: Sequence[str] = tuple(METRICS)
    limit: int | None = None
    batch_size: int = 16
    max_unreadable: float = MAX_UNREADABLE


class Method(Protocol):
    """Another way to explain a classifier, to compare with.

    `forward_passes` and `backward_passes` count pictures sent through the classifier so far.
    """

    name: str
    forward_passes: int
    backward_passes: int

    def explain(
        self, pixels: NDArray[np.float32], class_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return maps (B, h, w) of one class each for pictures (B, H, W, channels) in [0, 1]."""
        ...


@dataclass(frozen=True)
class PreparedBatch:
    """Pictures as the network sees them: float32 (B, H, W, channels) in [0, 1], masks alike."""

    indices: list[int]
    pixels: NDArray[np.float32]
    masks: list[NDArray[np.bool_] | None]


def prepared_batches(
    pictures: Pictures,
    image: ImageSpec,
    options: EvaluationOptions,
    unreadable: list[str],
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[PreparedBatch]:
    """Yield readable pictures in batches; the others are listed in `unreadable`.

    Raises:
        InputError: if there are too many of them, or options are out of range.
    """
    count = len(pictures) if options.limit is None else min(len(pictures), options.limit)
    if options.batch_size < 1 or count < 1:
        raise InputError(f"found {count} pictures and a batch size of {options.batch_size}")
    for start in range(0, count, options.batch_size):
        numbers = range(start, min(start + options.batch_size, count))
        rows = []
        for index in numbers:
            try:
                rows.append((index, *_prepare(pictures, index, image)))
            except InputError as error:
                name, reason = pictures.name(index), str(error)
                unreadable.append(reason if name in reason else f"{name}: {reason}")
                check_share(unreadable, count, options.max_unreadable)
        if rows:
            indices, pixels, masks = zip(*rows, strict=True)
            yield PreparedBatch(list(indices), np.stack(pixels), list(masks))
        advance(len(numbers))


def _prepare(
    pictures: Pictures, index: int, image: ImageSpec
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    picture = pictures.image(index, image)
    pixels = shares_of(prepared_levels(picture, image)[None], image)[0]
    mask = pictures.mask(index)
    if mask is None:
        return pixels, None
    width, height = size_of(picture)
    if mask.shape != (height, width):
        raise InputError(
            f"its mask is {mask.shape[1]}x{mask.shape[0]}, the picture {width}x{height}; "
            "expected them alike"
        )
    # What is padded is not the object.
    covered = prepare(Image.fromarray(mask.astype(np.uint8) * 255), replace(image, pad_level=0))
    return pixels, np.asarray(covered) > 127


def evaluate(
    model: EvaluatedModel,
    pictures: Pictures,
    options: EvaluationOptions | None = None,
    *,
    method: Method | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Score the maps of a classifier's predictions.

    Args:
        model: the classifier; it is what perturbed pictures are shown to as well.
        pictures: with labels for accuracy and masks for localisation, where there are any.
        options: what to measure.
        method: whose maps to score; the model's own by default.
        advance: told how many more pictures are dealt with.

    Raises:
        InputError: if no picture can be read, or too many cannot.
        BackendError: if the model fails.
    """
    options = options or EvaluationOptions()
    families = check_metrics(options.metrics)
    columns: dict[str, list[NDArray[np.floating[Any]]]] = defaultdict(list)
    names: list[str] = []
    unreadable: list[str] = []
    times: list[float] = []
    for batch in prepared_batches(pictures, model.image, options, unreadable, advance):
        predictions, maps, milliseconds = _timed_maps(model, batch, method)
        times.append(milliseconds / len(batch.indices))
        columns["accuracy"].append(_accuracy(pictures, batch, predictions, model.task))
        explained = model.explained(
            batch.pixels, predictions, batch.indices, maps=maps, masks=batch.masks
        )
        for name, values in _scores(explained, families).items():
            columns[name].append(values)
        names += [pictures.name(index) for index in batch.indices]
    if not names:
        raise InputError(f"none of the pictures can be read; the first: {unreadable[0]}")
    return Evaluation(
        model=model.name,
        method="tame" if method is None else method.name,
        scores={name: np.concatenate(parts) for name, parts in columns.items()},
        names=names,
        unreadable=unreadable,
        settings=_settings(model, options, method),
        forward_passes=1.0 if method is None else method.forward_passes / len(names),
        backward_passes=0.0 if method is None else method.backward_passes / len(names),
        milliseconds=statistics.median(times),
    )


def _timed_maps(
    model: EvaluatedModel, batch: PreparedBatch, method: Method | None
) -> tuple[Predictions, NDArray[np.float32], float]:
    """Return the predictions, the maps to score, and how many milliseconds those maps took."""
    started = time.perf_counter()
    predictions = model.predict(batch.pixels)
    maps = predictions.maps[:, 0]
    if method is not None:
        started = time.perf_counter()
        maps = method.explain(batch.pixels, predictions.class_ids[:, 0])
    return predictions, maps, 1e3 * (time.perf_counter() - started)


def _scores(
    explained: ExplainedBatch, families: Sequence[str]
) -> dict[str, NDArray[np.floating[Any]]]:
    """Return a number a picture by metric, of all families."""
    scores: dict[str, NDArray[np.floating[Any]]] = {}
    for family in families:
        scores |= METRICS[family](explained)
    return scores


def _accuracy(
    pictures: Pictures, batch: PreparedBatch, predictions: Predictions, task: Task
) -> NDArray[np.float64]:
    """Return 100 for each picture that is classified as it is labelled, 0 for others; (B).

    NaN without a label, and of multi-label classifiers: one class a picture does not judge them.
    """
    labels = [None if task == "multilabel" else pictures.label(i) for i in batch.indices]
    return np.array(
        [
            np.nan if label is None else 100.0 * (label == predicted)
            for label, predicted in zip(labels, predictions.class_ids[:, 0], strict=True)
        ]
    )


def _settings(
    model: EvaluatedModel, options: EvaluationOptions, method: Method | None
) -> dict[str, object]:
    settings: dict[str, object] = {
        "metrics": list(options.metrics),
        "task": model.task,
        "input": model.image.dtype,
        "speed_only": model.speed_only,
    }
    if method is None and model.predictor.graph.maps == "sigmoid":
        settings["note"] = "maps are sigmoids, stretched to [0, 1]; the papers score map logits"
    return settings
