"""Pictures of explanations: heat map over picture, panel with the top classes, contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["blend", "colorize", "contact_sheet", "layer", "panel"]

BACKGROUND = (255, 255, 255)
INK = (32, 33, 36)
MUTED = (110, 115, 122)
BAR = (66, 133, 244)
BAR_BACK = (232, 236, 241)
GAP = 12
PANEL_SIDE = 288
TEXT_WIDTH = 300
#: How quickly colour covers with what matters: middle values still show.
_COVER = 0.8
#: The most pixels of a resized map, of which a picture covers but a part.
_MOST_SCALED = 100_000_000

# Anchors of a perceptually ordered scale, dark violet over magenta and orange to pale yellow.
_ANCHORS = (
    (0.00, (13, 8, 60)),
    (0.20, (84, 15, 109)),
    (0.40, (166, 37, 98)),
    (0.60, (226, 81, 57)),
    (0.80, (251, 155, 24)),
    (1.00, (252, 255, 164)),
)


#: Text in the colours of the two sides, dark enough to be read on white.
_FOR_INK = (166, 72, 8)
_AGAINST_INK = (20, 88, 166)
_FOR_BAR = (232, 122, 38)
_AGAINST_BAR = (56, 143, 226)
#: What is above a contact sheet of two colours.
_KEY_HEIGHT = 24

# Two sides of one scale, which differ for all kinds of colour vision: orange for what speaks for a
# class, blue for what speaks for the other.
_FOR = (
    (0.00, (24, 24, 30)),
    (0.30, (122, 46, 12)),
    (0.60, (221, 101, 20)),
    (1.00, (255, 190, 92)),
)
_AGAINST = (
    (0.00, (24, 24, 30)),
    (0.30, (18, 72, 134)),
    (0.60, (44, 140, 226)),
    (1.00, (130, 206, 255)),
)
_Anchors: TypeAlias = "tuple[tuple[float, tuple[int, int, int]], ...]"


@cache
def _color_table(anchors: _Anchors = _ANCHORS) -> NDArray[np.uint8]:
    """Return a colour scale, (256, 3)."""
    stops = [stop for stop, _ in anchors]
    steps = np.linspace(0, 1, 256)
    channels = [np.interp(steps, stops, [c[i] for _, c in anchors]) for i in range(3)]
    return (np.stack(channels, axis=1) + 0.5).astype(np.uint8)


def _colors(heat: NDArray[np.float32], *, signed: bool) -> NDArray[np.uint8]:
    """Return the colours (h, w, 3) of a map (h, w) in [0, 1], or in [-1, 1] if it is signed."""
    if not signed:
        return _color_table()[_levels(heat)]
    levels = _levels(np.abs(heat))
    sides = _color_table(_FOR)[levels], _color_table(_AGAINST)[levels]
    return np.where((heat < 0)[..., None], sides[1], sides[0])


def _scaled(
    heat: NDArray[Any],
    size: tuple[int, int],
    part: tuple[float, float, float, float] | None = None,
) -> NDArray[np.float32]:
    """Return a map (h, w) in [-1, 1], or a part of it, bilinearly resized to (width, height)."""
    whole = Image.fromarray(np.asarray(heat, np.float32))
    resized = whole.resize(size, Image.Resampling.BILINEAR, part)
    clipped: NDArray[np.float32] = np.clip(np.nan_to_num(np.asarray(resized)), -1.0, 1.0)
    return clipped


def colorize(heat: NDArray[Any], size: tuple[int, int], *, signed: bool = False) -> Image.Image:
    """Return a map (h, w) in [0, 1] as an RGB picture of (width, height) pixels.

    If it is `signed`, in [-1, 1], it has two colours: orange above 0, blue below.
    """
    return Image.fromarray(_colors(_within(_scaled(heat, size), signed=signed), signed=signed))


def layer(heat: NDArray[Any], *, signed: bool = False) -> Image.Image:
    """Return a map (see `colorize`) as RGBA of its own size, to be laid over a picture."""
    colors = colorize(heat, (heat.shape[1], heat.shape[0]), signed=signed)
    cover = np.abs(_within(np.asarray(heat, np.float32), signed=signed)) ** _COVER
    colors.putalpha(Image.fromarray(_levels(cover)))
    return colors


def _within(heat: NDArray[np.float32], *, signed: bool) -> NDArray[np.float32]:
    clipped: NDArray[np.float32] = np.clip(heat, -1.0 if signed else 0.0, 1.0)
    return clipped


def _levels(heat: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return (heat * 255 + 0.5).astype(np.uint8)


def blend(
    image: Image.Image,
    heat: NDArray[Any],
    box: tuple[float, float, float, float] | None = None,
    strength: float = 0.75,
    *,
    signed: bool = False,
) -> Image.Image:
    """Lay a map over an RGB picture: the more it matters, the more colour covers it.

    Args:
        image: the picture, any size.
        heat: map (h, w) in [0, 1], or in [-1, 1] if it is signed.
        box: (left, top, right, bottom) of the map in the picture's pixels; what lies outside was
            not seen by the network and is dimmed. The whole picture by default.
        strength: opacity in [0, 1] where the map is 1.
        signed: whether the map has two colours (see `colorize`).
    """
    place = _rounded(box or (0, 0, *image.size))
    clip = _intersection(place, image.size)
    inside = _within(_scaled_part(heat, place, clip), signed=signed)
    result = Image.blend(image, Image.new("RGB", image.size, (128, 128, 128)), 0.65)
    colors = Image.fromarray(_colors(inside, signed=signed))
    alpha = Image.fromarray(_levels(strength * np.abs(inside) ** _COVER))
    result.paste(Image.composite(colors, image.crop(clip), alpha), clip)
    return result


def _scaled_part(
    heat: NDArray[Any], place: tuple[int, int, int, int], clip: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """Return what lies in `clip` of a map that is resized to `place`."""
    left, top, right, bottom = place
    size = (right - left, bottom - top)
    inside = (clip[0] - left, clip[1] - top, clip[2] - left, clip[3] - top)
    if size[0] * size[1] <= _MOST_SCALED:
        return _scaled(heat, size)[inside[1] : inside[3], inside[0] : inside[2]]
    # Of a long and narrow picture in a square, nearly all of the map is cut off: what shows is
    # resized alone, which may round otherwise in the last place.
    across, down = heat.shape[1] / size[0], heat.shape[0] / size[1]
    part = (inside[0] * across, inside[1] * down, inside[2] * across, inside[3] * down)
    return _scaled(heat, (clip[2] - clip[0], clip[3] - clip[1]), part)


def _rounded(box: Sequence[float]) -> tuple[int, int, int, int]:
    left, top = round(box[0]), round(box[1])
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def _intersection(
    box: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    return max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1])


def panel(
    image: Image.Image,
    heat: NDArray[Any],
    overlay: Image.Image,
    *,
    title: str,
    classes: Sequence[tuple[str, float]],
    note: str = "",
    versus: tuple[str, str] | None = None,
) -> Image.Image:
    """Put picture, map, overlay and the likeliest classes side by side.

    Args:
        image: the picture that was classified.
        heat: its map (h, w) in [0, 1], or in [-1, 1] if two classes are told apart.
        overlay: the map over the picture.
        title: which class the map explains.
        classes: (name, probability in [0, 1]), likeliest first.
        note: a line below the classes, such as a warning.
        versus: the names of the two classes that the map tells apart.
    """
    thumbnails = [
        _fitted(image, PANEL_SIDE),
        colorize(heat, (PANEL_SIDE, PANEL_SIDE), signed=versus is not None),
        _fitted(overlay, PANEL_SIDE),
    ]
    header = 30
    width = sum(t.width + GAP for t in thumbnails) + TEXT_WIDTH + 2 * GAP
    sheet = Image.new("RGB", (width, header + PANEL_SIDE + 2 * GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), _shortened(title, width - 2 * GAP, 16), INK, font=_font(16))
    left = GAP
    for thumbnail in thumbnails:
        sheet.paste(thumbnail, (left, header + GAP + (PANEL_SIDE - thumbnail.height) // 2))
        left += thumbnail.width + GAP
    _draw_classes(draw, (left, header + GAP), classes, versus)
    if versus is not None and versus[0] != versus[1]:
        _draw_scale(sheet, (left, header + PANEL_SIDE - 40), versus)
    if note:
        at = (left, header + PANEL_SIDE - 8)
        draw.text(at, _shortened(note, TEXT_WIDTH, 13), (190, 60, 40), font=_font(13))
    return sheet


def _draw_classes(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    classes: Sequence[tuple[str, float]],
    versus: tuple[str, str] | None,
) -> None:
    """Draw names and bars; of two that are told apart, in the colours of the map."""
    left, top = corner
    bars = {} if versus is None else {versus[1]: _AGAINST_BAR, versus[0]: _FOR_BAR}
    other_bar = BAR if versus is None else MUTED
    for name, probability in classes:
        percent = f"{probability:.1%}"
        text_width = draw.textlength(percent, font=_font(14))
        draw.text((left, top), _shortened(name, TEXT_WIDTH - 64, 14), INK, font=_font(14))
        draw.text((left + TEXT_WIDTH - text_width, top), percent, MUTED, font=_font(14))
        bar = (left, top + 21, left + TEXT_WIDTH, top + 27)
        draw.rounded_rectangle(bar, 3, BAR_BACK)
        filled = round(TEXT_WIDTH * min(max(probability, 0.0), 1.0))
        if filled >= 6:
            draw.rounded_rectangle(
                (left, bar[1], left + filled, bar[3]), 3, bars.get(name, other_bar)
            )
        top += 44


def _draw_scale(sheet: Image.Image, corner: tuple[int, int], versus: tuple[str, str]) -> None:
    """Draw the scale of two colours, with what each speaks for below its end."""
    left, top = corner
    levels = np.linspace(-1, 1, TEXT_WIDTH, dtype=np.float32)[None].repeat(8, axis=0)
    sheet.paste(Image.fromarray(_colors(levels, signed=True)), (left, top))
    draw = ImageDraw.Draw(sheet)
    own, other = (_shortened(f"for {name}", TEXT_WIDTH / 2 - GAP / 2, 13) for name in versus)
    draw.text((left, top + 11), other, _AGAINST_INK, font=_font(13))
    draw.text((left + TEXT_WIDTH, top + 11), own, _FOR_INK, font=_font(13), anchor="ra")


def contact_sheet(
    cells: Sequence[tuple[Image.Image, str]],
    *,
    columns: int = 5,
    side: int = 220,
    versus: str | None = None,
) -> Image.Image:
    """Arrange pictures and their captions in a grid.

    Args:
        cells: pictures and captions, row by row.
        columns: pictures in a row, at most.
        side: of the square that each has, in pixels.
        versus: the class that those named in the captions are told apart from in two colours.

    Raises:
        ValueError: if there are no cells.
    """
    if not cells:
        raise ValueError("a contact sheet needs at least one picture")
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    step_x, step_y = side + GAP, side + 24 + GAP
    above = 0 if versus is None else _KEY_HEIGHT
    sheet = Image.new("RGB", (columns * step_x + GAP, above + rows * step_y + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if versus is not None:
        _draw_key(draw, sheet.width - 2 * GAP, versus)
    for index, (image, caption) in enumerate(cells):
        left, top = GAP + index % columns * step_x, above + GAP + index // columns * step_y
        thumbnail = _fitted(image, side)
        offset = (left + (side - thumbnail.width) // 2, top + (side - thumbnail.height) // 2)
        sheet.paste(thumbnail, offset)
        text = _shortened(caption, side, 13)
        indent = (side - draw.textlength(text, font=_font(13))) / 2
        draw.text((left + indent, top + side + 5), text, INK, font=_font(13))
    return sheet


def _draw_key(draw: ImageDraw.ImageDraw, width: int, versus: str) -> None:
    """Say above a contact sheet what its two colours speak for."""
    left = GAP
    for color, ink, words in (
        (_FOR_BAR, _FOR_INK, "for the class below the picture"),
        (_AGAINST_BAR, _AGAINST_INK, f"for {versus}"),
    ):
        text = _shortened(words, width - left - 18, 13)
        draw.rounded_rectangle((left, GAP + 2, left + 11, GAP + 13), 3, color)
        draw.text((left + 18, GAP - 1), text, ink, font=_font(13))
        left += 18 + round(draw.textlength(text, font=_font(13))) + 2 * GAP


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Scale a picture to fit a square, up or down."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _shortened(text: str, width: float, size: int) -> str:
    """Cut a text to `width` pixels, with an ellipsis where it was cut."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
