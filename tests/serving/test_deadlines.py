"""Waiting that ends in time, and tells its own end from a cancellation."""

import asyncio

import pytest

from tame_deploy.serving.deadlines import within


async def _late(done):
    try:
        await asyncio.sleep(60)
    finally:
        done.append("cancelled")


def test_work_that_is_in_time_gives_its_result():
    async def quick():
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(within(quick(), 60)) == 7
    assert asyncio.run(within(quick(), None)) == 7


def test_work_that_is_late_is_cancelled_and_the_task_goes_on():
    async def waits():
        done = []
        with pytest.raises(asyncio.TimeoutError):
            await within(_late(done), 0.01)
        await asyncio.sleep(0)  # a cancellation that was left over would come here
        return done

    assert asyncio.run(waits()) == ["cancelled"]


def test_whoever_cancels_the_task_is_not_told_of_a_timeout():
    async def cancels():
        task = asyncio.ensure_future(within(_late([]), 60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancels())


def test_errors_of_the_work_are_its_own():
    async def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(within(fails(), 60))
