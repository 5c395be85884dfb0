"""`load` opens a served model by its URL, as `connect` does."""

from __future__ import annotations

import numpy as np
import pytest

from tame_deploy import BackendOptions, connect, load
from tame_deploy.errors import InputError

PICTURE = "tame_deploy/data/pictures/ring-1.png"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_url_is_a_served_model(server, scheme):
    pytest.importorskip("tritonclient")
    url = f"{server.http}/demo" if scheme == "http" else f"grpc://{server.grpc}/demo"
    with load(url) as loaded, connect(url) as connected:
        found, expected = loaded.explain(PICTURE), connected.explain(PICTURE)
    np.testing.assert_array_equal(found.maps, expected.maps)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"threads": 2}, "threads"),
        ({"backend": "openvino"}, "backend 'openvino'"),
        ({"options": BackendOptions(engine="x", streams=3)}, "engine, streams"),
    ],
)
def test_what_only_backends_here_honour_is_refused_with_a_url(given, named):
    with pytest.raises(InputError, match=f"found {named} with http://.*a server chooses"):
        load("http://localhost:1/demo", **given)
