"""What the server says of itself is what it does, for whatever a machine makes up."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")
openapi_checks = pytest.importorskip("schemathesis.specs.openapi.checks")

#: What fits a schema is not always good: what a tensor may be no schema can say.
UNFAIR = [openapi_checks.positive_data_acceptance]
few = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)  # fmt: skip


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"{server.http}/openapi.json")


def operations(schema):
    return {
        (path, method): schema[path][method]
        for path in schema
        for method in schema[path]
        if method in ("get", "post")
    }


def test_every_operation_answers_as_it_is_described(schema, server):
    found = operations(schema)
    assert len(found) >= 12

    for operation in found.values():

        @few
        @given(case=operation.as_strategy())
        def answers(case):
            case.call_and_validate(excluded_checks=UNFAIR, timeout=10)

        answers()
    assert httpx.get(f"{server.http}/v2/health/ready").status_code == 200
