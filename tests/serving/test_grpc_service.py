"""What gRPC's services keep of clients that come, watch and go away, without a server around."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tame_deploy.serving.access import Tokens
from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.grpc import wire
from tame_deploy.serving.grpc.guard import GuardedHandlers
from tame_deploy.serving.grpc.health import Health
from tame_deploy.serving.grpc.service import InferenceService

_MIB = 2**20
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class AbortedError(Exception):
    """What a context raises that ends a call."""


class Context:
    """A call's context, which keeps what is sent."""

    def __init__(self):
        self.sent = []

    async def write(self, answer):
        self.sent.append(answer.status)

    async def abort(self, code, words):
        raise AbortedError(code.name, words)

    def peer(self):
        return "somebody"


async def turns(count=20):
    """Let all others go on as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_watchers_of_health_hear_of_changes_after_one_of_them_has_left():
    async def watch():
        health = Health()
        health.set("", _NOT_SERVING)
        leaving, staying = Context(), Context()
        request = health_pb2.HealthCheckRequest()
        calls = [asyncio.ensure_future(health.Watch(request, one)) for one in (leaving, staying)]
        await turns()
        calls[0].cancel()
        await turns()
        health.set("", _SERVING)
        await turns()
        calls[1].cancel()
        return leaving.sent, staying.sent

    assert asyncio.run(watch()) == ([_NOT_SERVING], [_NOT_SERVING, _SERVING])


def test_a_watcher_that_does_not_read_holds_up_nobody():
    class Deaf(Context):
        async def write(self, _answer):
            await asyncio.Event().wait()

    async def watch():
        health = Health()
        hearing = Context()
        request = health_pb2.HealthCheckRequest()
        calls = [asyncio.ensure_future(health.Watch(request, one)) for one in (Deaf(), hearing)]
        await turns()
        health.set("", _SERVING)
        await turns()
        for call in calls:
            call.cancel()
        return hearing.sent

    unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert asyncio.run(watch()) == [unknown, _SERVING]


def test_so_many_watch_health_and_no_more_though_all_heads_came_first():
    async def watch():
        handlers = GuardedHandlers(Tokens(), open_health=True)
        health_pb2_grpc.add_HealthServicer_to_server(Health(), handlers)
        call = SimpleNamespace(method="/grpc.health.v1.Health/Watch", invocation_metadata=())
        request = health_pb2.HealthCheckRequest()
        found = [handlers.service(call) for _ in range(65)]
        watching = [asyncio.ensure_future(one.unary_stream(request, Context())) for one in found]
        await turns()
        (refused,) = [one for one in watching if one.done()]
        watching[0].cancel()
        await turns()
        another = asyncio.ensure_future(handlers.service(call).unary_stream(request, Context()))
        await turns()
        assert not another.done()
        for one in (*watching, another):
            one.cancel()
        return refused.exception().args

    told = ("UNAVAILABLE", "64 clients watch already; try again later")
    assert asyncio.run(watch()) == told


@pytest.fixture
def service():
    repository = SimpleNamespace(most_values=0)
    return InferenceService(repository, SimpleNamespace(max_body_mb=1))


def message_of(size):
    """Return a message of so many bytes, with one raw tensor."""
    return b"".join(wire.field(7, [bytes(size - 4)]))


def test_large_messages_have_a_bound_together(service):
    held = [service._receive(message_of(_MIB)) for _ in range(16)]
    assert not any(isinstance(one, RequestError) for one in held)
    refused = service._receive(message_of(_MIB))
    assert isinstance(refused, RequestError)
    assert refused.fault.code == "UNAVAILABLE"
    assert "too many large requests" in str(refused)
    assert not isinstance(service._receive(message_of(1000)), RequestError)
    held[0].let_go()  # its request is answered, though a stream may keep it
    assert not isinstance(held[0], RequestError)
    held.append(service._receive(message_of(_MIB)))
    assert not isinstance(held[-1], RequestError)
    del held[1:]  # nobody answers them any more
    assert service._held == 0


def test_a_stream_that_is_left_with_all_its_places_taken_leaves_no_task(service, monkeypatch):
    async def never(_request, _client):
        await asyncio.Event().wait()

    async def requests():
        for _ in range(100):
            yield None

    async def leave():
        monkeypatch.setattr(service, "_streamed", never)
        answers = service._stream(requests(), Context())
        first = asyncio.ensure_future(anext(answers))
        await turns(100)  # the reader waits for a place by now
        first.cancel()
        await turns(100)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert not asyncio.run(leave())
