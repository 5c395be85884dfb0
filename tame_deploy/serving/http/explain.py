"""POST …/explain: a picture's file in, its explanation as JSON or as a picture out."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson
from PIL import Image
from starlette.datastructures import QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tame_deploy.errors import InputError
from tame_deploy.picture import overlay
from tame_deploy.picture.preprocess import visible_box
from tame_deploy.runtime.explain.explanation import PictureExplanation
from tame_deploy.serving.contract import MOST_CLASSES, VERSION
from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.http.negotiation import preferred_type
from tame_deploy.serving.model import ExplainedPicture, ServedModel, small

__all__ = ["explain_picture", "picture_file"]

_PNG = "image/png"
_KNOWN = ("class_id", "label", "top_k", "versus", "top", "threshold", "maps", "overlay", "picture")
_REPEATABLE = ("class_id", "label")
#: Bytes of a form that are parsed at a time, which takes some milliseconds at most.
_PIECE = 64 * 1024
#: Likeliest classes that an answer lists, unless it is asked for more.
_LISTED = 5


async def explain_picture(
    request: Request, model: ServedModel, body: bytes, *, timeout_s: float
) -> Response:
    """Answer a request for the explanation of one picture.

    The body is the file, or a form with it in the field `image`. The query has `class_id` and
    `label` (repeatable) or `top_k`: which classes, `versus`: and not which other; `top`: how many
    of the likeliest to list, and `threshold`: how likely they are at least; `maps`: `list`, `png`
    or `none`; `overlay`: `true` for PNG overlays beside the maps; `picture`: `true` for the picture
    as it shows, for who cannot show its file. With `Accept: image/png` the answer is the first
    overlay itself.

    Raises:
        RequestError: for a query or a picture that cannot be honoured.
    """
    query = request.query_params
    for name in query:
        if name not in _KNOWN:
            raise RequestError(f"unknown query {name!r:.40}; expected {', '.join(_KNOWN)}")
        if name not in _REPEATABLE and len(query.getlist(name)) > 1:
            raise RequestError(f"found {name} more than once; expected it once")
    chosen = _questions(model, query)
    classes = len(model.explainer.labels)
    threshold = _share("threshold", query.get("threshold", "0"))
    most = classes if "threshold" in query else min(_LISTED, classes)
    listed = _number("top", query.get("top", str(most)), least=1, most=classes)
    maps = _choice("maps", query.get("maps", "list"), ("list", "png", "none"))
    draws = _choice("overlay", query.get("overlay", "false"), ("true", "false")) == "true"
    returned = _choice("picture", query.get("picture", "false"), ("true", "false")) == "true"
    accepted = request.headers.get("accept", "*/*")
    as_picture = preferred_type(accepted, ("application/json", _PNG)) == _PNG
    file = await picture_file(request, body)
    if not file:
        raise RequestError("found an empty picture; with curl, say --data-binary @FILE")
    found = await model.explain(file, chosen, timeout_s, draws=draws or as_picture)
    if as_picture:
        return Response(found.overlays[0], media_type=_PNG, headers=_headers(found))
    document = partial(
        _document, model, found, listed=(listed, threshold), maps=maps, returned=returned
    )
    return Response(await asyncio.to_thread(document), media_type="application/json")


async def picture_file(request: Request, body: bytes) -> bytes:
    """Return the picture's file of a body that is one, or a form with one.

    Raises:
        RequestError: for a form that cannot be read, or has no file in its field `image`.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return body
    # The body was read, within its limits; the form's parser takes it from here, in pieces between
    # which others have their turn.
    place = 0

    async def receive() -> dict[str, Any]:
        nonlocal place
        await asyncio.sleep(0)
        piece = body[place : place + _PIECE]
        place += len(piece)
        return {"type": "http.request", "body": piece, "more_body": place < len(body)}

    try:
        async with Request(request.scope, receive).form(max_files=1, max_fields=8) as form:
            upload = form.get("image")
            if not isinstance(upload, UploadFile):
                found = ", ".join(form) or "none"
                raise RequestError(
                    f"the form has no file in its field image; found fields {found:.80} "
                    "(with curl, -F image=@FILE)"
                )
            return await upload.read()
    except HTTPException as error:
        raise RequestError(f"the form cannot be read: {error.detail}") from None


def _classes(model: ServedModel, query: QueryParams) -> tuple[int, ...]:
    """Return the classes a query names: none for the likeliest."""
    ids, labels, top_k = query.getlist("class_id"), query.getlist("label"), query.get("top_k")
    if top_k is not None:
        if ids or labels:
            raise RequestError("found both top_k and classes; expected one of them")
        graph = model.explainer.artifact.manifest.graph
        if graph.explain != "selectable" and top_k == str(graph.ranks):
            return ()  # what it explains always
        return (-1,) * _number("top_k", top_k, least=1, most=max(1, graph.ranks))
    classes = len(model.explainer.labels)
    if len(ids) + len(labels) > MOST_CLASSES:
        raise RequestError(f"found over {MOST_CLASSES} classes")
    chosen = [_number("class_id", text, least=-1, most=classes - 1) for text in ids]
    try:
        return (*chosen, *(model.explainer.class_id(label) for label in labels))
    except InputError as error:
        raise RequestError(str(error)) from None


def _questions(model: ServedModel, query: QueryParams) -> tuple[int, ...]:
    """Return what a query asks the graph: none for the likeliest."""
    chosen, versus = _classes(model, query), query.get("versus")
    if versus is None:
        return chosen
    explainer = model.explainer
    try:
        other = explainer.class_named(versus)
        asked = explainer.predictor.class_ids(1, chosen or None, versus=other)
    except InputError as error:
        raise RequestError(str(error)) from None
    assert asked is not None  # a graph that takes no classes has no contrasts
    return tuple(map(int, asked[0]))


def _number(name: str, text: str, *, least: int, most: int) -> int:
    try:
        value = int(text) if len(text) < 12 else most + 1
    except ValueError:
        value = most + 1
    if not least <= value <= most:
        raise RequestError(f"{name} is {text!r:.40}; expected {least} to {most}")
    return value


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RequestError(f"{name} is {text!r:.40}; expected a number from 0 to 1")
    return value


def _choice(name: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise RequestError(f"{name} is {text!r:.40}; expected {', '.join(known)}")
    return text


def _headers(found: ExplainedPicture) -> Mapping[str, str]:
    explanation = found.explanation
    shown, other = explanation.explained[0], explanation.versus[0]
    told = {"x-class-id": str(shown.class_id), "x-probability": f"{shown.probability:.6f}"}
    return told if other is None else told | {"x-versus-class-id": str(other.class_id)}


def _document(
    model: ServedModel,
    found: ExplainedPicture,
    *,
    listed: tuple[int, float],
    maps: str,
    returned: bool,
) -> bytes:
    """Return the answer in JSON; `listed`: how many classes at most, how likely at least."""
    explanation = found.explanation
    explained = [
        score._asdict() | _versus(explanation, place) | _map(explanation, place, maps)
        for place, score in enumerate(explanation.explained)
    ]
    for one, drawn in zip(explained, found.overlays, strict=False):
        one["overlay_png"] = base64.b64encode(drawn).decode()
    told = {
        "model_name": model.name,
        "model_version": VERSION,
        "task": explanation.task,
        "classes": [score._asdict() for score in explanation.top(*listed)],
        "explained": explained,
        # What of the picture the network saw: the maps cover it.
        "visible_box": list(visible_box(found.size, explanation.image)),
        "picture_size": list(found.size),
        "speed_only": explanation.speed_only,
        "timing_ms": {stage: round(ms, 3) for stage, ms in found.timing_ms.items()},
    }
    if returned:
        told["picture_png"] = _encoded(small(explanation.picture))
    # Of float32 it writes the shortest text that reads as the same float32.
    return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)


def _versus(explanation: PictureExplanation, place: int) -> dict[str, Any]:
    """Return what a class is contrasted with, if it is."""
    other = explanation.versus[place]
    return {} if other is None else {"versus": other._asdict()}


def _map(explanation: PictureExplanation, place: int, maps: str) -> dict[str, Any]:
    """Return a map as numbers, or as a PNG file in the colours of overlays."""
    if maps == "none":
        return {}
    heat = explanation.heat(place)
    if maps == "list":
        values = np.ascontiguousarray(explanation.maps[place])
        return {"map": {"shape": list(values.shape), "data": values}}
    signed = explanation.versus[place] is not None
    return {"map_png": _encoded(overlay.layer(heat, signed=signed))}


def _encoded(image: Image.Image) -> str:
    """Return a picture as a PNG file in base64."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
