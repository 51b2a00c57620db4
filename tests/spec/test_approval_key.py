"""The approval key: one request for many askers, a cache with an end, a cool-down, no loops."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from daemon.errors import Refused, Retryable
from daemon.ingest.approval_key import (
    COOLDOWN_S,
    ENDPOINT_INTERVAL_S,
    USABLE_FRACTION,
    AccessKeyProvider,
    KeyEndpoint,
    NoAccessKey,
)
from daemon.ingest.venues.venue import AccessKey

LIFE_S = 86_400.0


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

    async def __call__(self) -> AccessKey:
        self.requests += 1
        if self.gate is not None:
            await self.gate()
        if self.errors:
            raise self.errors.pop(0)
        return AccessKey(f"key-{self.requests}", LIFE_S)


def endpoint(clock: Clock) -> KeyEndpoint:
    return KeyEndpoint(clock=clock, sleep=clock.sleep, cooldown_max_s=60.0)


def provider(desk: Desk, clock: Clock) -> AccessKeyProvider:
    return AccessKeyProvider(desk, endpoint=endpoint(clock))


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

    clock.now = USABLE_FRACTION * LIFE_S - 1.0
    assert await keys.get() == "key-1"
    clock.now = USABLE_FRACTION * LIFE_S
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
    assert sum(clock.slept) == pytest.approx(2 * COOLDOWN_S + COOLDOWN_S * 2)


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
    assert await NoAccessKey().get() == ""
    with pytest.raises(Refused):
        await NoAccessKey().get(refused="")


@pytest.mark.requirement("KEY-01", "F12")
async def test_a_venue_that_is_away_is_asked_less_and_less_often_up_to_a_minute() -> None:
    desk, clock = Desk(), Clock()
    keys = provider(desk, clock)
    desk.errors = [Retryable("away") for _ in range(8)]

    asked = []
    for _ in range(8):
        with pytest.raises(Retryable):
            await keys.get()
        asked.append(clock.now)

    assert [later - earlier for earlier, later in pairwise(asked)] == pytest.approx([2, 4, 8, 16, 32, 60, 60])
    assert await keys.get() == "key-9"
    assert await keys.get(refused="key-9") == "key-10"
    assert clock.slept[-1] == COOLDOWN_S  # the series is over


@pytest.mark.requirement("F12")
async def test_all_accounts_of_one_endpoint_share_its_trouble_and_its_pace() -> None:
    clock = Clock()
    shared = endpoint(clock)
    desks = [Desk() for _ in range(3)]
    keys = [AccessKeyProvider(desk, endpoint=shared) for desk in desks]

    for provider_ in keys:
        await provider_.get()
    assert clock.slept == [ENDPOINT_INTERVAL_S] * 2

    clock.now, clock.slept = 100.0, []
    desks[0].errors = [Retryable("too many requests")]
    with pytest.raises(Retryable):
        await keys[0].get(refused="key-1")
    await keys[1].get(refused="key-1")

    assert clock.slept == [COOLDOWN_S]


@pytest.mark.requirement("F64")
async def test_a_key_of_other_credentials_is_not_handed_out_again() -> None:
    desk, clock = Desk(), Clock()
    keys = provider(desk, clock)
    await keys.get()

    keys.forget()

    assert await keys.get() == "key-2"


@pytest.mark.requirement("KEY-01", "F11")
async def test_a_key_is_as_good_as_the_venue_says() -> None:
    clock = Clock()

    async def fetch() -> AccessKey:
        return AccessKey(f"key at {clock.now:.0f}", 100.0)

    keys = AccessKeyProvider(fetch, endpoint=endpoint(clock))

    assert await keys.get() == "key at 0"
    clock.now = 89.0
    assert await keys.get() == "key at 0"
    clock.now = 90.0
    assert await keys.get() == "key at 90"
