"""The approval key: one request for many askers, a cache with an end, a cool-down, no loops."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from daemon.errors import Refused, Retryable
from daemon.ingest.approval_key import COOLDOWN_S, MAX_AGE_S, ApprovalKeyProvider, NoApprovalKey


class Clock:
    """A clock that only sleepers move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Desk:
    """Issues key-1, key-2, ...; or raises what it was told to."""

    def __init__(self, *errors: Exception) -> None:
        self.requests = 0
        self.errors = list(errors)
        self.gate: Callable[[], Awaitable[object]] | None = None

    async def __call__(self) -> str:
        self.requests += 1
        if self.gate is not None:
            await self.gate()
        if self.errors:
            raise self.errors.pop(0)
        return f"key-{self.requests}"


def provider(desk: Desk, clock: Clock) -> ApprovalKeyProvider:
    return ApprovalKeyProvider(desk, clock=clock, sleep=clock.sleep)


@pytest.mark.requirement("KEY-01")
async def test_the_key_is_fetched_once_and_cached() -> None:
    desk, clock = Desk(), Clock()
    keys = provider(desk, clock)

    assert [await keys.get(), await keys.get()] == ["key-1", "key-1"]
    assert desk.requests == 1


@pytest.mark.requirement("KEY-01")
async def test_concurrent_askers_share_one_request() -> None:
    desk, clock, opened = Desk(), Clock(), asyncio.Event()
    desk.gate = opened.wait
    keys = provider(desk, clock)

    async with asyncio.TaskGroup() as group:
        askers = [group.create_task(keys.get(), name=f"asker-{number}") for number in range(5)]
        for _ in range(10):
            await asyncio.sleep(0)  # all of them ask before the first one is answered
        opened.set()

    assert {asker.result() for asker in askers} == {"key-1"}
    assert desk.requests == 1


@pytest.mark.requirement("KEY-01")
async def test_a_refused_key_is_replaced_once_for_all_who_had_it() -> None:
    desk, clock = Desk(), Clock()
    keys = provider(desk, clock)
    await keys.get()
    clock.now = 3600.0

    assert [await keys.get(refused="key-1"), await keys.get(refused="key-1")] == ["key-2", "key-2"]
    assert clock.slept == []


@pytest.mark.requirement("KEY-01")
async def test_keys_are_never_requested_faster_than_the_cool_down() -> None:
    desk, clock = Desk(), Clock()
    keys = provider(desk, clock)

    for number in range(1, 11):
        await keys.get(refused=f"key-{number - 1}")

    assert desk.requests == 10
    assert clock.now == pytest.approx(9 * COOLDOWN_S)


@pytest.mark.requirement("KEY-01")
async def test_an_old_key_is_not_used_to_start_a_session() -> None:
    desk, clock = Desk(), Clock()
    keys = provider(desk, clock)
    await keys.get()

    clock.now = MAX_AGE_S - 1.0
    assert await keys.get() == "key-1"
    clock.now = MAX_AGE_S
    assert await keys.get() == "key-2"


@pytest.mark.requirement("KEY-01")
async def test_a_failed_refresh_is_reported_and_the_refused_key_is_not_handed_out_again() -> None:
    desk, clock = Desk(), Clock()
    keys = provider(desk, clock)
    await keys.get()
    desk.errors = [Retryable("away"), Refused("wrong secret")]

    with pytest.raises(Retryable, match="away"):
        await keys.get(refused="key-1")
    with pytest.raises(Refused, match="wrong secret"):
        await keys.get()
    assert await keys.get() == "key-4"
    assert clock.slept == [COOLDOWN_S] * 3


async def test_a_cancelled_request_leaves_the_provider_usable() -> None:
    desk, clock = Desk(), Clock()
    desk.gate = asyncio.Event().wait
    keys = provider(desk, clock)
    asker = asyncio.ensure_future(keys.get())
    while desk.requests == 0:
        await asyncio.sleep(0)

    asker.cancel()
    await asyncio.wait([asker])
    desk.gate = None

    assert await keys.get() == "key-2"


async def test_a_venue_without_keys_gets_an_empty_one_and_cannot_have_it_refreshed() -> None:
    assert await NoApprovalKey().get() == ""
    with pytest.raises(Refused):
        await NoApprovalKey().get(refused="")
