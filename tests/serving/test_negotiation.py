"""What a client accepts, by its headers."""

from __future__ import annotations

import httpx
import pytest

from tame_deploy.serving.http.bodies import best_encoding
from tame_deploy.serving.http.negotiation import preferred_type
from tests.serving.clients import PICTURE

JSON, PNG = "application/json", "image/png"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/png", PNG),
        ("IMAGE/PNG", PNG),
        ("image/*", PNG),
        ("image/png, */*", PNG),
        ("image/png;q=0.8, */*;q=0.1", PNG),
        ("image/png, application/json", PNG),
        ("application/json, image/png", JSON),
        ("application/json, image/png;q=0.9", JSON),
        ("application/json;q=0.1, image/png ; q=0.9", PNG),
        ("image/png;q=0, */*", JSON),
        ("image/png;q=many", JSON),
        ("image/png+xml", JSON),
        ("text/x-image/png", JSON),
        ("text/html,image/avif,image/webp,*/*;q=0.8", JSON),
        ("*/*", JSON),
        ("", JSON),
        ("text/html", JSON),
    ],
)
def test_the_type_that_is_wanted_most(accept, expected):
    assert preferred_type(accept, (JSON, PNG)) == expected


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("gzip, deflate", "gzip"),
        ("deflate;q=1, gzip;q=0.0", "deflate"),
        ("gzip;q=0.1, deflate;q=1", "deflate"),
        ("identity, gzip;q=0.1", None),
        ("identity, gzip", "gzip"),
        ("gzip;q=0.000", None),
        ("br", None),
        ("", None),
    ],
)
def test_the_encoding_that_is_allowed(accepted, expected):
    assert best_encoding(accepted) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("image/png", PNG), ("image/png;q=0, application/json", JSON), ("application/json", JSON)],
)
def test_a_server_answers_with_the_type_that_is_wanted(server, accept, expected):
    url = f"{server.http}/v2/models/demo/explain?maps=none"
    found = httpx.post(url, content=PICTURE, headers={"accept": accept})
    assert found.headers["content-type"] == expected
