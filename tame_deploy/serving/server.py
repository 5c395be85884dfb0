"""A server's life: listen, open and warm up, answer, and end without losing what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.table import honours
from tame_deploy.serving.access import Tokens
from tame_deploy.serving.grpc.server import GrpcServer
from tame_deploy.serving.http.server import HttpServer
from tame_deploy.serving.options import ModelOptions, ServeOptions
from tame_deploy.serving.repository import Repository
from tame_deploy.serving.statistics import Metrics
from tame_deploy.serving.traces import set_up_traces

__all__ = ["Addresses", "run_server", "serve"]

_log = logging.getLogger("tame_deploy.serving")
#: How long after "not ready" requests on open connections are still taken: balancers need a moment.
_GRACE_S = 0.5
#: By the numbers of malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
_MALLOC = {-8: 2, -3: 32 * 2**20, -1: 64 * 2**20}


class Addresses:
    """Where a server listens, once it does."""

    def __init__(self, host: str, *, http_port: int, grpc_port: int | None, scheme: str) -> None:
        shown = f"[{host}]" if ":" in host else host
        self.http = f"{scheme}://{shown}:{http_port}"
        secure = "s" if scheme == "https" else ""
        self.grpc = None if grpc_port is None else f"grpc{secure}://{shown}:{grpc_port}"


def run_server(
    artifacts: Mapping[str, Path],
    options: ServeOptions,
    ready: Callable[[Addresses, Repository], None] = lambda *_: None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends it at once.

    Raises:
        TameError: if an artifact cannot be opened, or an address is taken.
    """
    _set_up_malloc()
    _set_up_collector()
    _allow_open_files()
    _loop_runner()(serve(artifacts, options, ready))


def _loop_runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Return what runs a coroutine on a loop of its own; Windows has no uvloop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _set_up_malloc() -> None:
    """Let threads share glibc's heaps: bodies of many sizes would leave holes in one for each.

    And have tensors come from them, which are not cleared by the system each time.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in _MALLOC.items():
            libc.mallopt(option, value)


def _set_up_collector() -> None:
    """Have the garbage collector leave alone what is imported: nothing of that is ever garbage.

    Looking through it holds up everybody, for longer than dozens of requests take.
    """
    gc.collect()
    gc.freeze()


def _allow_open_files() -> None:
    """Let as many files be open as the system allows: by habit it is 1024, and clients are more."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(
    artifacts: Mapping[str, Path],
    options: ServeOptions,
    ready: Callable[[Addresses, Repository], None] = lambda *_: None,
) -> None:
    """Serve on the running event loop (see `run_server`)."""
    tokens = Tokens.of_file(options.token_file) if options.token_file else Tokens()
    end_traces = set_up_traces(options.traces) if options.traces else lambda: None
    repository = Repository(artifacts, _model_options(options), Metrics())
    http = HttpServer(repository, options, tokens)
    grpc = GrpcServer(repository, options, tokens) if options.grpc_port is not None else None
    ended = _end_signals()
    try:
        http.start()
        if grpc is not None:
            await grpc.start()
        opened = asyncio.ensure_future(repository.open_all())
        await asyncio.wait((opened, ended), return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            opened.result()
            if grpc is not None:
                grpc.show_ready(ready=True)
            scheme = "https" if options.tls_cert else "http"
            addresses = Addresses(
                options.host,
                http_port=http.port,
                grpc_port=grpc.port if grpc is not None else None,
                scheme=scheme,
            )
            ready(addresses, repository)
            watching = repository.watch(options.reload_s) if options.reload_s else _for_ever()
            await _until(ended, http, watching)
    finally:
        await _end(http, grpc, repository, drain_s=options.drain_s)
        end_traces()
        _log.info("ended")


def _model_options(options: ServeOptions) -> ModelOptions:
    side_by_side = max(options.instances, BackendOptions().streams)
    return ModelOptions(
        backend=options.backend,
        backend_options=BackendOptions(
            threads=options.threads,
            device=options.device,
            # ONNX Runtime runs any number of calls side by side, and is told none.
            streams=side_by_side
            if honours(options.backend, "streams")
            else BackendOptions().streams,
            precision=options.precision,
        ),
        max_batch=options.max_batch,
        instances=options.instances,
        max_queue_delay_ms=options.max_queue_delay_ms,
        max_queue_size=options.queue_size,
        max_pixels=options.max_pixels,
        decoders=options.decoders,
    )


def _end_signals() -> asyncio.Future[None]:
    """Return what is done when the process is told to end; a second signal kills it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end(number: signal.Signals) -> None:
        _log.info("%s: ending", number.name)
        for one in (signal.SIGTERM, signal.SIGINT):  # whichever comes next kills
            loop.remove_signal_handler(one)
        if not ended.done():
            ended.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, end, number)
    return ended


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _until(
    ended: asyncio.Future[None], http: HttpServer, watching: Coroutine[Any, Any, None]
) -> None:
    """Return when the process is told to end; watch the artifacts meanwhile."""
    watch = asyncio.ensure_future(watching)
    assert http.running is not None
    await asyncio.wait((ended, watch, http.running), return_when=asyncio.FIRST_COMPLETED)
    for task in (watch, http.running):
        if task.done():
            task.result()
    watch.cancel()


async def _end(
    http: HttpServer, grpc: GrpcServer | None, repository: Repository, *, drain_s: float
) -> None:
    """Answer what was accepted and close, all of it within `drain_s` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + drain_s
    was_ready = repository.ready
    repository.begin_drain()
    if grpc is not None:
        grpc.show_ready(ready=False)
    http.stop_listening()
    if was_ready:
        await asyncio.sleep(min(_GRACE_S, drain_s))
    stops = [http.stop(max(0.0, end - loop.time()))]
    if grpc is not None:
        stops.append(grpc.stop(max(0.0, end - loop.time()), repository.idle))
    await asyncio.gather(*stops)
    await repository.close(max(0.0, end - loop.time()))
