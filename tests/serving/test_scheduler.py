"""The queue: batches of what waited, rows to whom they belong, nothing for who left."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from tame_deploy.errors import BackendError
from tame_deploy.serving.scheduler import Scheduler


class Engine:
    """Doubles its input; holds on until it is let go, and remembers its batches."""

    def __init__(self, *, held=False):
        self.batches = []
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, feeds):
        assert self.go.wait(10)
        self.batches.append(len(feeds["x"]))
        if (feeds["x"] < 0).any():
            raise BackendError("no negative numbers")
        return {"y": feeds["x"] * 2}


def rows(*values, width=1):
    return {"x": np.repeat(np.array(values, float)[:, None], width, axis=1)}


async def turns_of_the_loop():
    """Let tasks begin, and what they call soon be done."""
    for _ in range(5):
        await asyncio.sleep(0)


async def submitted(scheduler, *jobs):
    tasks = [asyncio.ensure_future(scheduler.submit(job)) for job in jobs]
    await turns_of_the_loop()
    return tasks


def test_what_queued_while_the_engine_was_busy_goes_in_one_batch():
    async def main():
        engine = Engine(held=True)
        scheduler = Scheduler(engine, max_batch=8)
        first = await submitted(scheduler, rows(1))
        others = await submitted(scheduler, *(rows(value) for value in range(2, 8)))
        assert scheduler.waiting == 6
        engine.go.set()
        found = await asyncio.gather(*first, *others)
        assert engine.batches == [1, 6]
        assert [one.outputs["y"][0, 0] for one in found] == [2, 4, 6, 8, 10, 12, 14]
        await scheduler.close()

    asyncio.run(main())


def test_requests_that_come_together_go_together():
    async def main():
        engine = Engine()
        scheduler = Scheduler(engine, max_batch=8)
        await asyncio.gather(*(scheduler.submit(rows(value)) for value in range(5)))
        assert engine.batches == [5]
        await scheduler.close()

    asyncio.run(main())


def test_batches_keep_to_rows_and_to_requests_of_one_shape():
    async def main():
        engine = Engine(held=True)
        scheduler = Scheduler(engine, max_batch=4)
        jobs = [rows(1), rows(2, 3, 4), rows(5, 6), rows(7, width=2), rows(8)]
        tasks = await submitted(scheduler, *jobs)
        engine.go.set()
        found = await asyncio.gather(*tasks)
        # 1 and 2, 3, 4 fill a batch; then 5, 6 with 8; 7 is of another shape.
        assert engine.batches == [4, 3, 1]
        for job, one in zip(jobs, found, strict=True):
            np.testing.assert_array_equal(one.outputs["y"], job["x"] * 2)
        await scheduler.close()

    asyncio.run(main())


def test_who_left_costs_nothing():
    async def main():
        engine = Engine(held=True)
        scheduler = Scheduler(engine, max_batch=1)
        running, left, stayed = await submitted(scheduler, rows(1), rows(2), rows(3))
        left.cancel()
        await turns_of_the_loop()
        assert scheduler.waiting == 1
        engine.go.set()
        await asyncio.gather(running, stayed)
        assert engine.batches == [1, 1]
        await scheduler.close()

    asyncio.run(main())


def test_a_batch_that_fails_is_run_again_one_by_one():
    async def main():
        engine = Engine(held=True)
        scheduler = Scheduler(engine, max_batch=8)
        tasks = await submitted(scheduler, rows(0), rows(1), rows(-1), rows(3))
        engine.go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, BackendError) for one in found] == [False, False, True, False]
        assert found[3].outputs["y"][0, 0] == 6
        await scheduler.close()

    asyncio.run(main())


def test_instances_run_side_by_side():
    async def main():
        together = threading.Barrier(2, timeout=5)

        def engine(feeds):
            together.wait()
            return {"y": feeds["x"]}

        scheduler = Scheduler(engine, max_batch=1, instances=2)
        await asyncio.gather(scheduler.submit(rows(1)), scheduler.submit(rows(2)))
        await scheduler.close()

    asyncio.run(main())


@pytest.mark.parametrize(("max_queue_delay_s", "batches"), [(0.0, [1, 1]), (0.5, [2])])
def test_a_batch_waits_for_others_as_long_as_it_may(max_queue_delay_s, batches):
    async def main():
        engine = Engine()
        scheduler = Scheduler(engine, max_batch=8, max_queue_delay_s=max_queue_delay_s)
        first = await submitted(scheduler, rows(1))
        second = await submitted(scheduler, rows(2))
        await asyncio.gather(*first, *second)
        assert engine.batches == batches
        await scheduler.close()

    asyncio.run(main())


def test_a_full_batch_does_not_wait():
    async def main():
        engine = Engine()
        scheduler = Scheduler(engine, max_batch=2, max_queue_delay_s=30)
        await asyncio.wait_for(
            asyncio.gather(scheduler.submit(rows(1)), scheduler.submit(rows(2))), 5
        )
        await scheduler.close()

    asyncio.run(main())


@pytest.mark.parametrize(("bound_ns", "on_the_loop"), [(10**15, True), (0, False)])
def test_what_takes_next_to_no_time_is_run_on_the_loop(monkeypatch, bound_ns, on_the_loop):
    monkeypatch.setattr("tame_deploy.serving.scheduler._QUICK_NS", bound_ns)
    threads = []

    def run(feeds):
        threads.append(threading.current_thread() is threading.main_thread())
        return {"y": feeds["x"]}

    async def main():
        scheduler = Scheduler(run, max_batch=8)
        for value in range(20):
            found = await scheduler.submit(rows(value))
            assert found.outputs["y"][0, 0] == value
        await scheduler.close()

    asyncio.run(main())
    assert not any(threads[:16])  # nothing is known of it yet
    assert threads[16:] == [on_the_loop] * 4
