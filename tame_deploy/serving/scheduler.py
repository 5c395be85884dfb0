"""The queue: what waited while the backend was busy goes through it in one batch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tame_deploy.errors import BackendError

__all__ = ["BatchTimes", "RequestResult", "Scheduler", "Tensors"]

Tensors: TypeAlias = "dict[str, NDArray[Any]]"


#: Batches that must all have been this short, one after another, for the next to run on the loop.
_RECENT, _QUICK_NS = 16, 1_000_000


@dataclass(frozen=True, kw_only=True)
class BatchTimes:
    """What one run of the backend took, in nanoseconds, for so many pictures."""

    rows: int
    input_ns: int
    infer_ns: int
    output_ns: int


@dataclass(frozen=True)
class RequestResult:
    """What a batch gave for one of its requests.

    Attributes:
        outputs: the request's rows of the outputs, by name.
        queue_ns: how long the request waited for the batch.
        times: of the whole batch.
    """

    outputs: Tensors
    queue_ns: int
    times: BatchTimes


@dataclass(eq=False)
class _Job:
    feeds: Tensors
    result: asyncio.Future[RequestResult]
    since_ns: int

    @property
    def rows(self) -> int:
        return len(next(iter(self.feeds.values())))

    @property
    def kind(self) -> tuple[tuple[int, ...], ...]:
        """What must be equal for two to share a batch: all sizes but the first."""
        return tuple(array.shape[1:] for array in self.feeds.values())


class Scheduler:
    """Gives a backend batches of at most `max_batch` rows, `instances` of them at a time.

    It lives on one event loop; only `run` is called in threads, unless it takes next to no time. A
    job whose caller stopped waiting is never run. A batch that is not full waits until its oldest
    job waited `max_queue_delay_s`. `observe` is told of every batch.
    """

    def __init__(
        self,
        run: Callable[[Mapping[str, NDArray[Any]]], Tensors],
        *,
        max_batch: int,
        instances: int = 1,
        max_queue_delay_s: float = 0.0,
        observe: Callable[[BatchTimes], None] = lambda _: None,
    ) -> None:
        self._run_backend, self._observe = run, observe
        self._max_batch, self._max_delay_ns = max_batch, int(max_queue_delay_s * 1e9)
        self._instances = self._idle = instances
        self._waiting: deque[_Job] = deque()
        self._free = asyncio.Event()
        self._closed = False
        self._recent: deque[int] = deque(maxlen=_RECENT)  # nanoseconds of batches
        self._pool = ThreadPoolExecutor(instances, "tame-deploy infer")
        self._loop = asyncio.get_running_loop()
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    async def submit(self, feeds: Tensors) -> RequestResult:
        """Return the outputs of rows, once they went through the backend.

        Raises:
            BackendError: if it cannot run them, or is closed.
        """
        if self._closed:
            raise BackendError("the model was closed")
        job = _Job(feeds, self._loop.create_future(), time.monotonic_ns())
        self._waiting.append(job)
        self._start_soon()
        try:
            return await job.result
        finally:
            if job.result.cancelled() and job in self._waiting:
                self._waiting.remove(job)

    async def close(self) -> None:
        """End the threads once what runs is finished; what waits is told that it is over."""
        self._closed = True
        for job in self._waiting:
            if not job.result.done():
                job.result.set_exception(BackendError("the model was closed"))
        self._waiting.clear()
        while self._idle < self._instances:
            self._free.clear()
            await self._free.wait()
        self._pool.shutdown(wait=False)

    def _start_soon(self) -> None:
        """Start when this round of the loop is over: requests that came together go together."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._due = False
        while self._idle and self._waiting and not self._worth_waiting():
            jobs = self._take()
            self._idle -= 1
            if self._is_quick:
                self._loop.call_soon(self._finish, jobs, self._run(jobs))
            else:
                self._pool.submit(self._work, jobs)

    @property
    def _is_quick(self) -> bool:
        """Whether running here and now holds up others less than handing over to a thread costs."""
        return len(self._recent) == _RECENT and max(self._recent) < _QUICK_NS

    def _worth_waiting(self) -> bool:
        """Whether the batch is not full, and its oldest job may be delayed still."""
        if not self._max_delay_ns or sum(job.rows for job in self._waiting) >= self._max_batch:
            return False
        left = self._waiting[0].since_ns + self._max_delay_ns - time.monotonic_ns()
        if left <= 0:
            return False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(left / 1e9, self._start)
        return True

    def _take(self) -> list[_Job]:
        """Take the oldest job and those that fit beside it; the others keep their places."""
        first = self._waiting.popleft()
        taken, rows, kind = [first], first.rows, first.kind
        passed: list[_Job] = []
        while self._waiting and rows < self._max_batch:
            job = self._waiting.popleft()
            if job.kind == kind and rows + job.rows <= self._max_batch:
                taken.append(job)
                rows += job.rows
            else:
                passed.append(job)
        self._waiting.extendleft(reversed(passed))
        return taken

    def _work(self, jobs: Sequence[_Job]) -> None:
        """Run jobs in a thread; the loop learns of the end with one call, which is the cheapest."""
        results = self._run(jobs)
        with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._finish, jobs, results)

    def _run(self, jobs: Sequence[_Job]) -> list[RequestResult | BaseException]:
        """Run jobs as one batch; if that fails, each alone."""
        started = time.monotonic_ns()
        try:
            return list(self._run_together(jobs, started))
        except BaseException as error:
            if len(jobs) == 1 or not isinstance(error, BackendError):
                return [error] * len(jobs)
        return [self._run([job])[0] for job in jobs]

    def _run_together(self, jobs: Sequence[_Job], started: int) -> list[RequestResult]:
        feeds = jobs[0].feeds
        if len(jobs) > 1:
            feeds = {name: np.concatenate([job.feeds[name] for job in jobs]) for name in feeds}
        ready = time.monotonic_ns()
        outputs = self._run_backend(feeds)
        done = time.monotonic_ns()
        edges = np.cumsum([0, *(job.rows for job in jobs)]).tolist()
        shares = [
            {name: array[start:end] for name, array in outputs.items()}
            for start, end in itertools.pairwise(edges)
        ]
        times = BatchTimes(
            rows=edges[-1],
            input_ns=ready - started,
            infer_ns=done - ready,
            output_ns=time.monotonic_ns() - done,
        )
        return [
            RequestResult(share, started - job.since_ns, times)
            for job, share in zip(jobs, shares, strict=True)
        ]

    def _finish(
        self, jobs: Sequence[_Job], results: Sequence[RequestResult | BaseException]
    ) -> None:
        self._idle += 1
        self._free.set()
        self._start()
        ran = [result.times for result in results if isinstance(result, RequestResult)]
        for times in {id(times): times for times in ran}.values():  # one a batch
            self._recent.append(times.input_ns + times.infer_ns)
            self._observe(times)
        for job, result in zip(jobs, results, strict=True):
            if job.result.done():
                continue
            if isinstance(result, BaseException):
                job.result.set_exception(result)
            else:
                job.result.set_result(result)
