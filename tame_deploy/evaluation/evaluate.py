"""Evaluating explanations: pictures stream by once, in batches."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.types import MAX_UNREADABLE, ImageSpec, Task
from tame_deploy.data.labelled import Pictures
from tame_deploy.data.sources import check_share
from tame_deploy.errors import InputError
from tame_deploy.evaluation.kept import Keeper
from tame_deploy.evaluation.result import Evaluation
from tame_deploy.evaluation.verdict import verdict_of
from tame_deploy.metrics.evaluated_model import EvaluatedModel
from tame_deploy.metrics.families import (
    ASKING_FOR_MAPS,
    DEFAULT_METRICS,
    METRICS,
    RANDOMISATION,
    ExplainedBatch,
    chance,
    check_metrics,
)
from tame_deploy.picture.preprocess import prepare, prepared_levels, shares_of, size_of
from tame_deploy.runtime.predict.predictor import Predictions

if TYPE_CHECKING:
    from tame_deploy.evaluation.randomisation import RandomisableGraph

__all__ = ["EvaluationOptions", "Method", "PreparedBatch", "evaluate", "prepared_batches"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How pictures are evaluated.

    Attributes:
        metrics: names of families of metrics; `DEFAULT_METRICS`, as far as the model can be asked
            for what they need, by default.
        limit: how many pictures at most; all by default.
        batch_size: how many at a time.
        max_unreadable: share in [0, 1] that may be unreadable.
        verdict: whether to say in words what the numbers mean, which takes a map of noise as well.
    """

    metrics: Sequence[str] | None = None
    limit: int | None = None
    batch_size: int = 16
    max_unreadable: float = MAX_UNREADABLE
    verdict: bool = False


class Method(Protocol):
    """Another way to explain a classifier, to compare with.

    `forward_passes` and `backward_passes` count pictures sent through the classifier so far; what
    goes through a part of it counts by its multiply-adds.
    """

    name: str
    backward_passes: int

    @property
    def forward_passes(self) -> float: ...

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
    count = _count(pictures, options)
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
    randomisable: RandomisableGraph | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Score the maps of a classifier's predictions.

    Args:
        model: the classifier; it is what perturbed pictures are shown to as well.
        pictures: with labels for accuracy and masks for localisation, where there are any.
        options: what to measure.
        method: whose maps to score; the model's own by default.
        randomisable: the model's graph, for the metric "randomisation".
        advance: told how many more pictures are dealt with.

    Raises:
        InputError: if no picture can be read, or too many cannot; for metrics that need what the
            model or the method does not give.
        BackendError: if the model fails.
    """
    options = options or EvaluationOptions()
    families = _families(model, options, method, randomisable)
    columns: dict[str, list[NDArray[np.floating[Any]]]] = defaultdict(list)
    names: list[str] = []
    unreadable: list[str] = []
    costs: list[_Cost] = []
    kept = Keeper(_count(pictures, options) if RANDOMISATION in families else 0)
    for batch in prepared_batches(pictures, model.image, options, unreadable, advance):
        predictions, maps, cost = _timed_maps(model, batch, method)
        costs.append(cost)
        kept.keep(batch.indices, batch.pixels, predictions.class_ids[:, 0], maps)
        columns["accuracy"].append(_accuracy(pictures, batch, predictions, model.task))
        explain = None if method is None else method.explain
        explained = model.explained(
            batch.pixels, predictions, batch.indices, maps=maps, explain=explain, masks=batch.masks
        )
        for name, values in _scores(explained, families, verdict=options.verdict).items():
            columns[name].append(values)
        names += [pictures.name(index) for index in batch.indices]
    if not names:
        raise InputError(f"none of the pictures can be read; the first: {unreadable[0]}")
    scores = {name: np.concatenate(parts) for name, parts in columns.items()}
    if randomisable is not None and RANDOMISATION in families:
        found = randomisable.similarities(kept.pictures(), options.batch_size, advance)
        scores |= {name: kept.spread(values, len(names)) for name, values in found.items()}
    evaluation = Evaluation(
        model=model.name,
        method="tame" if method is None else method.name,
        scores=scores,
        names=names,
        unreadable=unreadable,
        settings=_settings(model, families, method),
        forward_passes=sum(cost.forward for cost in costs) / len(names),
        backward_passes=sum(cost.backward for cost in costs) / len(names),
        milliseconds=statistics.median(cost.milliseconds for cost in costs),
    )
    return replace(evaluation, verdict=verdict_of(evaluation)) if options.verdict else evaluation


def _families(
    model: EvaluatedModel,
    options: EvaluationOptions,
    method: Method | None,
    randomisable: RandomisableGraph | None,
) -> tuple[str, ...]:
    """Return the families to measure; of those that nobody named, the ones that can be."""
    any_class = method is not None or model.explains_any_class
    if options.metrics is None:
        return tuple(n for n in DEFAULT_METRICS if any_class or n not in ASKING_FOR_MAPS)
    families = check_metrics(options.metrics)
    refused = [name for name in families if name in ASKING_FOR_MAPS]
    if refused and not any_class:
        raise InputError(
            f"{refused[0]} needs the map of a given class, and this graph explains only the "
            "classes that it predicts; export with --explain selectable, or leave it out"
        )
    if RANDOMISATION in families and method is not None:
        raise InputError(
            f"randomisation is measured of a model's own maps, not of {method.name}'s; leave it "
            "out, and ask evaluate for it"
        )
    if RANDOMISATION in families and randomisable is None:
        raise InputError("randomisation needs the float32 graph whose weights it randomises")
    return families


def _count(pictures: Pictures, options: EvaluationOptions) -> int:
    return len(pictures) if options.limit is None else min(len(pictures), options.limit)


class _Cost(NamedTuple):
    """What the maps of a batch took: passes of all pictures, milliseconds for one."""

    forward: float
    backward: int
    milliseconds: float


def _timed_maps(
    model: EvaluatedModel, batch: PreparedBatch, method: Method | None
) -> tuple[Predictions, NDArray[np.float32], _Cost]:
    """Return the predictions, the maps to score, and what those maps took."""
    count = len(batch.indices)
    started = time.perf_counter()
    predictions = model.predict(batch.pixels)
    maps = predictions.maps[:, 0]
    forward: float = count
    backward = 0
    if method is not None:
        forward, backward = method.forward_passes, method.backward_passes
        started = time.perf_counter()
        maps = method.explain(batch.pixels, predictions.class_ids[:, 0])
        forward, backward = method.forward_passes - forward, method.backward_passes - backward
    return (
        predictions,
        maps,
        _Cost(forward, backward, 1e3 * (time.perf_counter() - started) / count),
    )


def _scores(
    explained: ExplainedBatch, families: Sequence[str], *, verdict: bool
) -> dict[str, NDArray[np.floating[Any]]]:
    """Return a number a picture by metric, of all families that look at pictures one by one."""
    scores: dict[str, NDArray[np.floating[Any]]] = {}
    for family in families:
        if family in METRICS:
            scores |= METRICS[family](explained)
    if verdict and "ad-ic" in families:
        scores |= chance(explained)
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
    model: EvaluatedModel, families: Sequence[str], method: Method | None
) -> dict[str, object]:
    settings: dict[str, object] = {
        "metrics": list(families),
        "task": model.task,
        "input": model.image.dtype,
        "explain": model.predictor.graph.explain,
        "speed_only": model.speed_only,
    }
    if method is None and model.predictor.graph.maps == "sigmoid":
        settings["note"] = "maps are sigmoids, stretched to [0, 1]; the papers score map logits"
    return settings
