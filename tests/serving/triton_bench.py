"""Triton's four clients behind one face, for the checks of triton_suite.py."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

TRANSPORTS = ("http", "http.aio", "grpc", "grpc.aio")
HTTP, GRPC = TRANSPORTS[:2], TRANSPORTS[2:]
CHECKS: dict[str, Callable[[Any], None]] = {}
#: Of an answer, in logits and maps.
NEAR = 1e-4


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    return check_of(*TRANSPORTS)(function)


def check_of(*transports: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Return what takes a function up as a check of some transports."""

    def add(function: Callable[[Any], None]) -> Callable[[Any], None]:
        for transport in transports:
            CHECKS[f"{transport}-{function.__name__.replace('_', '-')}"] = function
        return function

    return add


class _Waited:
    """An asyncio client, used as the plain one is."""

    def __init__(self, kind: Any, address: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()

        async def make() -> Any:
            return kind(address, **options)

        self._client = self._loop.run_until_complete(make())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def collect(self, answers: Any) -> list[Any]:
        async def every() -> list[Any]:
            return [one async for one in answers(self._client)]

        return self._loop.run_until_complete(every())

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


class Bench:
    """A client of one transport, what to ask it, and what should come back."""

    def __init__(self, transport: str, address: str, expected: dict[str, Any]) -> None:
        self.transport, self.address, self.expected = transport, address, expected
        self.is_http = transport in HTTP
        self.lib = importlib.import_module(f"tritonclient.{transport.partition('.')[0]}")
        self.error = importlib.import_module("tritonclient.utils").InferenceServerException
        self.client = self.connect()

    def connect(self, **options: Any) -> Any:
        kind = importlib.import_module(f"tritonclient.{self.transport}").InferenceServerClient
        if self.transport.endswith("aio"):
            return _Waited(kind, self.address, **options)
        return kind(self.address, **options)

    def input(self, name: str, datatype: str, array: Any, **how: Any) -> Any:
        tensor = self.lib.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **how)
        return tensor

    def images(self, rows: slice = slice(0, 1), **how: Any) -> Any:
        return self.input("images", "UINT8", self.expected["images"][rows], **how)

    def wanted(self, *names: str, **how: Any) -> list[Any]:
        return [self.lib.InferRequestedOutput(name, **how) for name in names]

    def infer(self, *inputs: Any, **options: Any) -> Any:
        return self.client.infer("demo", list(inputs), **options)

    def json(self, method: str, *args: Any) -> Any:
        """Return what a method tells, as JSON."""
        return getattr(self.client, method)(*args, **({} if self.is_http else {"as_json": True}))

    def same(self, answer: Any, rows: slice = slice(0, 1), suffix: str = "") -> None:
        """Check every output of an answer against the runtime's own."""
        for name in ("logits", "explained", "maps"):
            found, expected = answer.as_numpy(name), self.expected[name + suffix][rows]
            assert found.dtype == expected.dtype, (name, found.dtype)
            assert found.shape == expected.shape, (name, found.shape)
            assert abs(found - expected).max() <= NEAR, name

    def refused(self, status: str, words: str, call: Callable[[], Any]) -> None:
        """Check that a call fails with an error of the server."""
        try:
            call()
        except self.error as error:
            told, message = error.status(), error.message()
        else:
            raise AssertionError("it was answered")
        expected = {"http": status.partition(" ")[0], "grpc": status.partition(" ")[2]}
        expected_status = expected["http" if self.is_http else "grpc"]
        assert told is not None, message
        assert told.endswith(expected_status), (told, message)
        assert words in message, message
