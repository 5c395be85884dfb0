"""Maps over pictures in C++ equal Python's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.picture import overlay
from tame_deploy.picture.preprocess import visible_box
from tame_deploy.runtime.explain.explanation import Explanation
from tests.cpp.pictures import (
    FORMATS,
    Jobs,
    as_seen,
    in_order,
    noise,
    stored_as,
)

KINDS = ("minmax", "sigmoid", "logits")


def random_maps(count: int) -> Iterator[NDArray[np.float32]]:
    generator = np.random.default_rng(11)
    for _ in range(count):
        height, width = generator.integers(1, 30, 2)
        yield generator.random((height, width)).astype(np.float32)


@in_order
def test_resized_maps_equal_pillows_to_the_bit(jobs):
    generator = np.random.default_rng(3)
    cases = []
    for heat in random_maps(300):
        to = tuple(int(side) for side in generator.integers(1, 60, 2))
        logits = (heat - 0.5) * 1000  # not in [0, 1]
        jobs.add(f"map {{}} {heat.shape[1]} {heat.shape[0]} {to[0]} {to[1]}", logits)
        cases.append((logits, to))
    for (heat, to), (_, answer) in zip(cases, jobs.run(), strict=True):
        expected = Image.fromarray(heat).resize(to, Image.Resampling.BILINEAR)
        assert answer == np.asarray(expected).tobytes(), (heat.shape, to)


def wild(heat: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    heat = heat.copy()
    heat[0, 0] = value
    return heat


def test_stretched_maps_equal_pythons_to_the_bit(jobs):
    maps = list(random_maps(60))
    maps += [np.full((3, 3), value, np.float32) for value in (0, 1, -7, np.nan, np.inf, -np.inf)]
    maps += [wild(maps[5], value) for value in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40)]
    maps += [np.array([[1000, at]], np.float32) for at in (999.001, 998.999, 1001, 1001.1)]
    with np.errstate(over="ignore"):
        cases = [
            (heat * 8 - 4, kind, signed) for heat in maps for kind in KINDS for signed in (0, 1)
        ]
    for heat, kind, signed in cases:
        at = f"{heat.shape[1]} {heat.shape[0]} {KINDS.index(kind)} {signed}"
        jobs.add(f"stretch {{}} {at}", heat)
    for (heat, kind, signed), (_, answer) in zip(cases, jobs.run(), strict=True):
        explanation = Explanation(
            np.zeros((1, 1), np.float32),
            np.zeros((1, 1), np.int64),
            heat[None, None],
            ("it",),
            (Image.new("RGB", (1, 1)),),
            ImageSpec(),
            kind,  # type: ignore[arg-type]
            versus_ids=np.zeros((1, 1), np.int64) if signed else None,
        )
        with np.errstate(all="ignore"):
            expected = explanation[0].heat()
        found = np.frombuffer(answer, np.float32).reshape(heat.shape)
        assert np.array_equal(found, expected, equal_nan=True), (heat, kind, signed)


def add_blend(
    jobs: Jobs,
    pixels: NDArray[np.uint8],
    kind: str,
    heat: NDArray[np.float32],
    box: tuple[float, float, float, float],
    strength: float,
    signed: bool = False,
) -> None:
    rows, stride = stored_as(pixels, kind, 3)
    height, width = pixels.shape[:2]
    jobs.add(
        f"blend {{}} {FORMATS[kind]} {width} {height} {stride} {{}} {heat.shape[1]}"
        f" {heat.shape[0]} {' '.join(map(repr, box))} {strength!r} {int(signed)}",
        rows,
        heat,
    )


@in_order
def test_blended_maps_equal_pythons(jobs):
    generator = np.random.default_rng(5)
    cases = []
    for index, heat in enumerate(random_maps(200)):
        width, height = (int(side) for side in generator.integers(1, 90, 2))
        if index % 3:
            width, height = width + 40, height + 40
        pixels = noise(width, height, index)
        box = visible_box((width, height), ImageSpec(int(32 + index % 60), 40, 44))
        extreme = [np.nan, np.inf, -np.inf, -5, 5][index // 10 % 5]
        shown = heat if index % 10 else wild(heat, extreme)
        signed = index % 2 == 1
        if signed:
            shown = 2 * shown - 1
        kind = list(FORMATS)[index % len(FORMATS)]
        case = (pixels, kind, shown, box, float(generator.random()), signed)
        add_blend(jobs, *case)
        cases.append(case)
    off = total = 0
    for case, (status, answer) in zip(cases, jobs.run(), strict=True):
        pixels, kind, heat, box, strength, signed = case
        assert status == "ok", answer
        with np.errstate(all="ignore"):
            shown = overlay.blend(as_seen(pixels, kind), heat, box, strength, signed=signed)
        expected = np.asarray(shown)
        found = np.frombuffer(answer, np.uint8).reshape(expected.shape)
        gap = np.abs(found.astype(int) - expected)
        assert gap.max() <= 1, case[1:]
        off, total = off + int((gap > 0).sum()), total + gap.size
    # NumPy's power may differ in its last bit from the C library's.
    assert off <= total * 1e-5


def test_colours_and_shares_of_all_levels_equal_pythons(jobs):
    ramp = np.linspace(-1, 1, 4096, dtype=np.float32)[None]
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 4096, axis=1).repeat(3, 2)
    box = (-0.5, 0.0, 4096.0, 256.0)
    cases = [(strength, signed) for strength in (0.75, 1.0) for signed in (False, True)]
    for strength, signed in cases:
        add_blend(jobs, pixels, "RGB", ramp, box, strength, signed)
    for (strength, signed), (_, answer) in zip(cases, jobs.run(), strict=True):
        drawn = overlay.blend(Image.fromarray(pixels), ramp, box, strength, signed=signed)
        expected = np.asarray(drawn)
        gap = np.abs(np.frombuffer(answer, np.uint8).reshape(expected.shape).astype(int) - expected)
        assert gap.max() <= 1
        assert (gap > 0).mean() <= 1e-5


def test_dimming_of_all_levels_equals_pythons(jobs):
    pixels = np.arange(256, dtype=np.uint8)[None].repeat(3, 0).T[None].copy()
    box = (255.0, 0.0, 256.0, 1.0)
    heat = np.ones((1, 1), np.float32)
    add_blend(jobs, pixels, "BGR", heat, box, 0.75)
    expected = np.asarray(overlay.blend(Image.fromarray(pixels), heat, box))
    assert jobs.run() == [("ok", expected.tobytes())]
