"""AD and IC of a graph on the judged pictures: does its map still show what its class needs."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from tame_deploy.metrics.answers import BATCH, Questions
from tame_deploy.metrics.families import ExplainedBatch, average_drop_and_increase
from tame_deploy.metrics.masking import heat_of
from tame_deploy.metrics.subject import Subject

__all__ = ["drop_and_increase"]


def drop_and_increase(questions: Questions, model: bytes) -> dict[str, float]:
    """Return AD and IC in percent, each graph scored by its own maps and its own answers.

    Keys are `average_drop_SHARE` and `increase_SHARE` (metrics/families.py).

    Raises:
        BackendError: if the graph cannot be run.
    """
    manifest = questions.manifest
    sums: dict[str, float] = defaultdict(float)
    with Subject(
        manifest.name,
        questions.open(model),
        manifest.image,
        (),
        manifest.backbone,
        manifest.graph.maps,
        manifest.graph.explain,
    ) as subject:
        for start in range(0, len(questions.pixels), BATCH):
            pixels = questions.pixels[start : start + BATCH].astype(np.float32) / np.float32(255)
            answer = subject.answer(pixels)
            batch = ExplainedBatch(
                pixels,
                heat_of(answer.maps, manifest.image.height, manifest.image.width),
                answer.class_ids,
                answer.probabilities[np.arange(len(pixels)), answer.class_ids],
                [None] * len(pixels),
                range(start, start + len(pixels)),
                lambda shown: subject.answer(shown).probabilities,
            )
            for name, values in average_drop_and_increase(batch).items():
                sums[name] += float(values.sum())
    return {name: total / len(questions.pixels) for name, total in sums.items()}
