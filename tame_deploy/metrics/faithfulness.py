"""One backend judged by another: fidelity, and AD and IC: do maps still show what classes need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tame_deploy.artifact.manifest import FidelityReport
from tame_deploy.metrics.answers import BATCH, Answers, Questions
from tame_deploy.metrics.families import SHARES, ExplainedBatch, average_drop_and_increase
from tame_deploy.metrics.fidelity import measure_fidelity
from tame_deploy.metrics.masking import heat_of
from tame_deploy.metrics.subject import Subject
from tame_deploy.runtime.backends.protocol import Backend

__all__ = ["drop_and_increase", "judge"]


def judge(
    questions: Questions,
    labels: Sequence[int | None],
    float32: tuple[Answers, dict[str, float]],
    backend: Backend,
    found: Answers,
    *,
    batch: int = BATCH,
) -> FidelityReport:
    """Return the whole report of a backend beside float32.

    Args:
        questions: the pictures that judge.
        labels: their classes, where known.
        float32: its answers, and its AD and IC (`drop_and_increase`).
        backend: what is judged.
        found: its answers, of the classes that float32 predicts.
        batch: how many pictures are run at a time.

    Raises:
        BackendError: if it cannot be run.
        InputError: if no two maps are of the same class.
    """
    expected, before = float32
    image = questions.manifest.image
    fidelity = measure_fidelity(
        expected, found, questions.names, labels, (image.height, image.width)
    )
    after = drop_and_increase(questions, backend, batch)
    drop, increase = (
        {str(share): after[f"{kind}_{share}"] - before[f"{kind}_{share}"] for share in SHARES}
        for kind in ("average_drop", "increase")
    )
    return replace(fidelity, average_drop=drop, increase=increase)


def drop_and_increase(
    questions: Questions, backend: Backend, batch: int = BATCH
) -> dict[str, float]:
    """Return AD and IC in percent, each backend scored by its own maps and its own answers.

    Keys are `average_drop_SHARE` and `increase_SHARE` (metrics/families.py).

    Raises:
        BackendError: if it cannot be run.
    """
    manifest = questions.manifest
    sums: dict[str, float] = defaultdict(float)
    subject = Subject(
        manifest.name,
        backend,
        manifest.image,
        (),
        manifest.backbone,
        manifest.graph.maps,
        manifest.graph.explain,
    )
    for start in range(0, len(questions.pixels), batch):
        pixels = questions.pixels[start : start + batch].astype(np.float32) / np.float32(255)
        answer = subject.answer(pixels)
        explained = ExplainedBatch(
            pixels,
            heat_of(answer.maps, manifest.image.height, manifest.image.width),
            answer.class_ids,
            answer.probabilities[np.arange(len(pixels)), answer.class_ids],
            [None] * len(pixels),
            range(start, start + len(pixels)),
            lambda shown: subject.answer(shown).probabilities,
        )
        for name, values in average_drop_and_increase(explained).items():
            sums[name] += float(values.sum())
    return {name: total / len(questions.pixels) for name, total in sums.items()}
