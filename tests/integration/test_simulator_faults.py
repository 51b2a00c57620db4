"""Each fault does at the wire what it says, for all sessions or for those that it is meant for."""

import asyncio
import csv
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from picows import WSInvalidStatusError

from daemon.simulator.chaos import ACTS, schedule
from daemon.simulator.journal import events_path
from tests.integration.venue_clients import (
    Kis,
    connected,
    credentials,
    kis,
    kiwoom,
    kiwoom_token,
    post,
    simulating,
    upbit,
    wait_until,
)

TRADE, BOOK = "H0STCNT0", "H0STASP0"
SYMBOL = "005930"


def journalled(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cum_volumes(client: Kis, tr_id: str = TRADE) -> list[int]:
    return [int(fields[13]) for fields in client.records(tr_id, 47)]


async def streaming(client: Kis, frames: int = 50, symbol: str = SYMBOL) -> None:
    client.register(TRADE, symbol)
    await wait_until(lambda: len(client.data()) >= frames)


# Records


@pytest.mark.requirement("F21")
async def test_a_dropped_record_is_a_hole_in_the_cumulative_volume_that_the_journal_knows(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    async with simulating(rate=2000, faults=("drop:005930:10",), journal=str(path)) as venue, kis(venue) as client:
        await streaming(client, 95)
    found = [(int(f[13]), int(f[12])) for f in client.records(TRADE, 47)]
    holes = [(b - size) - a for (a, _), (b, size) in itertools.pairwise(found) if b - size != a]

    rows = journalled(path)[: len(found) + len(found) // 9]
    dropped = [int(row["size"]) for row in rows if row["fate"] == "dropped"]
    assert len(holes) >= 9
    assert dropped[: len(holes)] == holes
    assert {row["fate"] for row in rows[9::10]} == {"dropped"}


@pytest.mark.requirement("F20")
async def test_two_records_change_places() -> None:
    async with simulating(rate=2000, faults=("reorder:005930:10",)) as venue, kis(venue) as client:
        await streaming(client, 60)

    volumes = cum_volumes(client)
    falls = [place for place, (a, b) in enumerate(itertools.pairwise(volumes)) if b < a]
    assert falls[:3] == [9, 19, 29]
    assert len(set(volumes)) == len(volumes)


@pytest.mark.requirement("F20")
async def test_a_correction_takes_shares_back_and_no_cumulative_volume_occurs_twice(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    async with simulating(rate=4000, faults=("correct:005930:5",), journal=str(path)) as venue, kis(venue) as client:
        await streaming(client, 500)

    found = [(int(f[13]), int(f[12])) for f in client.records(TRADE, 47)]
    breaks = [b - size - a for (a, _), (b, size) in itertools.pairwise(found) if b - size != a]
    assert len(breaks) >= 99
    assert all(missing < 0 for missing in breaks)
    assert sum(b < a for (a, _), (b, _) in itertools.pairwise(found)) == len(breaks)
    keys = [row["key"] for row in journalled(path)]
    assert len(set(keys)) == len(keys)


@pytest.mark.requirement("F20")
async def test_a_session_roll_starts_the_volume_again() -> None:
    async with simulating(rate=2000, faults=("roll:0.2",)) as venue, kis(venue) as client:
        client.register(TRADE, SYMBOL)
        client.register("HDFSCNT0", "DNASAAPL")
        await wait_until(lambda: any(v < 10**8 for v in cum_volumes(client)))
        await wait_until(lambda: any(int(f[20]) < 10**8 for f in client.records("HDFSCNT0", 26)))

    volumes = cum_volumes(client)
    roll = next(place for place, volume in enumerate(volumes) if volume < 10**8)
    assert min(volumes[:roll]) > 10**9
    assert int(list(client.records(TRADE, 47))[roll][12]) == volumes[roll]


@pytest.mark.requirement("F19")
async def test_frames_come_twice_at_random_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    async with simulating(rate=2000, faults=("duplicate:0.2",), journal=str(path)) as venue, kis(venue) as client:
        await streaming(client, 300)
        await post(f"{venue.rest_url}/faults", "stall")
        await wait_until(lambda: venue.totals()["messages"] == len(client.wire.frames))
        totals = venue.totals()

    copies = Counter(cum_volumes(client))
    assert set(copies.values()) == {1, 2}
    assert sum(count == 2 for count in copies.values()) == totals["duplicates"] > 10
    assert {row["key"] for row in journalled(path)} == {str(volume) for volume in copies}
    assert len(journalled(path)) == len(copies)


@pytest.mark.requirement("F19")
async def test_after_a_reconnect_the_last_frames_come_again() -> None:
    async with simulating(rate=1000, faults=("replay:5",)) as venue:
        async with kis(venue) as first:
            await streaming(first, 30)
        await wait_until(lambda: venue.totals()["sessions_open"] == 0)
        sent = venue.totals()["sent"]["trade"]
        async with kis(venue) as second:
            await streaming(second, 20)

    before, after = cum_volumes(first), cum_volumes(second)
    assert len(before) <= sent
    assert after == sorted(after)
    assert len(set(after[:5]) & set(before)) >= 5 - (sent - len(before))


async def test_jitter_delays_but_keeps_the_order() -> None:
    async with simulating(rate=500, faults=("jitter:20:200",)) as venue, kis(venue) as client:
        await streaming(client, 5)
        assert venue.totals()["sent"]["trade"] - len(client.data()) > 5  # on their way
        await wait_until(lambda: len(client.data()) > 100)

    assert cum_volumes(client) == sorted(cum_volumes(client))


async def test_a_market_that_goes_on_is_journalled_as_unheard(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    async with simulating(rate=2000, faults=("market_goes_on",), journal=str(path)) as venue:
        for _ in range(2):
            async with kis(venue) as client:
                await streaming(client, 30)
            await wait_until(lambda: venue.totals()["sessions_open"] == 0)
            unheard = venue.totals()["fates"]["unheard"]
            await wait_until(lambda: venue.totals()["fates"]["unheard"] > unheard + 30)  # noqa: B023

    rows = journalled(path)
    assert {row["fate"] for row in rows} == {"sent", "unheard"}
    volumes = [(int(row["key"]), int(row["size"])) for row in rows]
    assert all(b == a + size for (a, _), (b, size) in itertools.pairwise(volumes))


# Frames


@pytest.mark.requirement("F14")
async def test_nineteen_records_travel_in_one_frame() -> None:
    async with simulating(rate=5000, faults=("pack:19",)) as venue, kis(venue) as client:
        await streaming(client, 20)

    assert Counter(text.split(b"|")[2] for text in client.data()[:20]) == {b"019": 20}
    assert len(cum_volumes(client)) >= 19 * 20


@pytest.mark.requirement("F14")
@pytest.mark.parametrize(("fault", "width_fits"), [("wrong_count:3", True), ("truncate:3", False)])
async def test_a_damaged_frame_is_journalled_as_damaged(tmp_path: Path, fault: str, width_fits: bool) -> None:
    path = tmp_path / "j.csv"
    async with simulating(rate=2000, faults=(fault,), journal=str(path)) as venue, kis(venue) as client:
        await streaming(client, 30)

    for number, text in enumerate(client.data()[:30], 1):
        _, _, count, payload = text.decode().split("|")
        is_whole = payload.count("^") + 1 == 47 * int(count)
        assert is_whole == (number % 3 != 0)
        if number % 3 == 0:
            assert (payload.count("^") + 1 == 47) == width_fits
    assert [row["fate"] for row in journalled(path)[:6]] == ["sent", "sent", "damaged"] * 2


@pytest.mark.requirement("F15")
async def test_a_new_field_is_behind_the_known_ones() -> None:
    async with (
        simulating(rate=2000, venues="kis,kiwoom,upbit", faults=("new_field:2",)) as venue,
        kis(venue) as client,
        kiwoom(venue) as other,
        upbit(venue) as crypto,
    ):
        await streaming(client, 10)
        other.ask("REG", [SYMBOL], ["0B"])
        crypto.ask({"type": "trade", "codes": ["KRW-BTC"], "is_only_realtime": True})
        await wait_until(lambda: other.entries() and crypto.data("trade"))

    assert {len(fields) for fields in client.records(TRADE, 49)} == {49}
    assert {tuple(fields[47:]) for fields in client.records(TRADE, 49)} == {("new", "new")}
    assert {"90000", "90001"} <= set(other.entries()[0]["values"])
    assert crypto.data("trade")[0]["new_1"] == "x"


async def test_bytes_that_are_not_utf8_stand_in_a_field_nobody_needs() -> None:
    async with (
        simulating(rate=2000, venues="kis,kiwoom,upbit", faults=("bad_utf8:2",)) as venue,
        kis(venue) as client,
        kiwoom(venue) as other,
        upbit(venue) as crypto,
    ):
        await streaming(client, 10)
        other.ask("REG", [SYMBOL], ["0B"])
        crypto.ask({"type": "trade", "codes": ["KRW-BTC"], "is_only_realtime": True})
        for wire in (other.wire, crypto.wire):
            await wait_until(lambda: any(b"\xff\xfe" in text for text in wire.texts()))  # noqa: B023

    bad = [f for f in client.records(TRADE, 47) if f[44] == "\xff\xfe"]
    assert len(bad) >= 4


@pytest.mark.requirement("F17")
async def test_a_frame_of_ten_megabytes_and_a_hundred_thousand_tiny_ones() -> None:
    async with simulating(rate=500, faults=("big_frame:0.2", "tiny:0.3:100000")) as venue, kis(venue) as client:
        client.register(TRADE, SYMBOL)
        await wait_until(lambda: any(len(text) == 10 << 20 for text in client.wire.texts()))
        await wait_until(lambda: sum(text == b"0|Z|1|" for text in client.wire.texts()) >= 100_000)
        await wait_until(lambda: len(cum_volumes(client)) > 100)


@pytest.mark.parametrize("name", ["kiwoom", "upbit"])
async def test_garbage_of_the_json_venues_comes_in_every_shape(name: str) -> None:
    async with simulating(rate=500, venues=name, faults=("garbage:500",)) as venue:
        session: Any = kiwoom(venue) if name == "kiwoom" else upbit(venue)
        async with session as client:
            if name == "kiwoom":
                client.ask("REG", [SYMBOL], ["0B"])
            else:
                client.ask({"type": "trade", "codes": ["KRW-BTC"]})
            await wait_until(lambda: len(venue.totals()["garbage"]) == 5)
            await wait_until(lambda: any(b"\xff\xfe" in text for text in client.wire.texts()))


# Connections


@pytest.mark.requirement("F16")
async def test_the_first_data_comes_in_the_segment_of_the_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    async with simulating(faults=("early:005930",), journal=str(path)) as venue:
        host, port = venue.ws_url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        first = await reader.read(65536)  # one read: what one segment brought
        writer.close()
        async with kis(venue) as client:
            await wait_until(lambda: len(client.data()) == 1)

    assert first.startswith(b"HTTP/1.1 101")
    assert b"0|H0STCNT0|001|005930^" in first
    assert [row["symbol"] for row in journalled(path)] == [SYMBOL, SYMBOL]


@pytest.mark.requirement("F03")
async def test_a_half_open_session_neither_reads_nor_writes_nor_closes() -> None:
    faults = ("half_open:0.2@app-1",)
    async with simulating(rate=1000, faults=faults, pingpong_interval_s=0.02) as venue, kis(venue) as client:
        await streaming(client, 20)
        await wait_until(lambda: venue._venue.sessions[1].is_half_open)
        frames = len(client.wire.frames)
        client.register(BOOK, SYMBOL)
        async with kis(venue) as other:  # the same app key: the slot is free again
            await streaming(other, 100)
        assert len(client.wire.frames) - frames < 20  # what was on its way
        assert not client.wire.is_lost
        assert "OPSP0000" in other.codes()


@pytest.mark.requirement("F09")
async def test_the_slot_stays_held_after_an_unclean_drop_only() -> None:
    async with simulating(rate=500, faults=("slot_held:30:2",)) as venue:
        async with kis(venue) as first:
            await streaming(first, 5)
            await post(f"{venue.rest_url}/faults", "abort")
            await wait_until(lambda: first.wire.is_lost)
        async with kis(venue) as second:
            for number in range(1, 4):
                second.register(TRADE, SYMBOL)
                await wait_until(lambda: len(second.codes()) == number)  # noqa: B023
            assert second.codes() == ["OPSP8996", "OPSP8996", "OPSP0000"]
            await post(f"{venue.rest_url}/faults", "close")
            await wait_until(lambda: second.wire.is_lost)
        async with kis(venue) as third:
            await streaming(third, 5)
        assert third.codes() == ["OPSP0000"]


@pytest.mark.requirement("F10")
async def test_connections_are_accepted_only_to_be_closed_for_a_while() -> None:
    async with simulating(faults=("kick:0.4",)) as venue:
        kicked = 0
        while True:
            async with kis(venue) as client:
                client.register(TRADE, SYMBOL)
                await wait_until(lambda: client.wire.is_lost or client.codes())
                if client.codes():
                    break
                kicked += 1
                assert client.wire.closed_with == 1000
        assert kicked == venue.totals()["kicked"] >= 1


async def test_upgrades_are_refused_with_429_so_many_times() -> None:
    async with simulating(faults=("refuse_connect:2",)) as venue:
        for _ in range(2):
            with pytest.raises(WSInvalidStatusError):
                async with connected(venue.ws_url):
                    pass
        async with connected(venue.ws_url):
            pass


@pytest.mark.requirement("F01")
async def test_a_json_venue_is_closed_aborted_and_superseded_like_the_other() -> None:
    async with simulating(venues="kiwoom,upbit", rate=1000) as venue:
        url = venue.addresses()["upbit"]["rest_url"]
        for act, code in (("close", 1000), ("abort", None)):
            async with kiwoom(venue) as client, upbit(venue) as crypto:
                await post(f"{url}/faults", act)
                await wait_until(lambda: client.wire.is_lost and crypto.wire.is_lost)
                assert (client.wire.closed_with, crypto.wire.closed_with) == (code, code)
        async with kiwoom(venue) as client:
            await post(f"{url}/faults", "supersede@app-1")
            await wait_until(lambda: client.wire.is_lost)
            assert client.replies("SYSTEM")[0]["code"] == "R10001"


# Requests and keys


async def test_requests_of_the_json_venues_go_wrong_too() -> None:
    faults = ("no_ack:000660:1", "error:035720:7:1", "late_ack:0.1@app-2", "error:KRW-BTC:NO_CODES:1")
    async with (
        simulating(venues="kiwoom,upbit", faults=faults, start_after=99) as venue,
        kiwoom(venue) as client,
        upbit(venue) as crypto,
    ):
        client.ask("REG", ["000660"], ["0B"])
        client.ask("REG", ["035720"], ["0B"])
        client.ask("REG", ["000660", "035720"], ["0B"])
        await wait_until(lambda: len(client.replies("REG")) == 2)
        assert [reply["return_code"] for reply in client.replies("REG")] == [7, 0]
        crypto.ask({"type": "trade", "codes": ["KRW-BTC"]})
        await wait_until(crypto.errors)
        assert crypto.errors() == ["NO_CODES"]


@pytest.mark.requirement("F11")
async def test_every_key_issued_before_a_moment_is_refused_after_it() -> None:
    async with simulating(venues="kis,kiwoom", faults=("expire_after:0.3",)) as venue:
        token = await kiwoom_token(venue)
        async with kis(venue) as client:
            await streaming(client, 300)  # an open session goes on
            client.register(BOOK, SYMBOL)
            await wait_until(lambda: "OPSP0011" in client.codes())
        async with kis(venue) as fresh:
            await streaming(fresh, 3)
        async with kiwoom(venue, token=token) as old:
            await wait_until(lambda: old.wire.is_lost)
        assert old.replies("LOGIN")[0]["return_code"] != 0


@pytest.mark.requirement("F12")
@pytest.mark.parametrize(("name", "path"), [("kis", "Approval"), ("kiwoom", "token")])
async def test_the_token_door_is_throttled(name: str, path: str) -> None:
    async with simulating(venues=name, faults=("throttle_approval:2", "refuse_approval:1")) as venue:
        replies = [await post(f"{venue.rest_url}/oauth2/{path}", credentials()) for _ in range(4)]

    assert [status for status, _ in replies] == [429, 429, 500, 200]
    assert replies[0][1]["error_code"] == "EGW00201"


# One side only, and at random


@pytest.mark.requirement("F22")
async def test_one_side_of_a_pair_fails_while_the_other_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    options: dict[str, Any] = {"rate": 2000, "start_after": 2, "journal": str(path), "seconds": 0.5}
    async with (
        simulating(faults=("drop:005930:4@a", "jitter:100:200@a"), **options) as venue,
        kis(venue, "a") as left,
        kis(venue, "b") as right,
    ):
        left.register(TRADE, SYMBOL)
        right.register(TRADE, SYMBOL)
        await venue.wait_finished()
        await wait_until(lambda: (len(left.data()), len(right.data())) == (750, 1000))

        # the journal is written beside the sending
        await wait_until(lambda: Counter(row["fate"] for row in journalled(path)) == {"sent": 1000})

    assert set(left.data()) < set(right.data())


async def test_what_was_left_out_is_journalled_when_nothing_else_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    options: dict[str, Any] = {"rate": 50, "start_after": 1, "journal": str(path), "seconds": 0.4}
    async with simulating(faults=("drop:005930:1",), **options) as venue, kis(venue) as client:
        client.register(TRADE, SYMBOL)
        await venue.wait_finished()
        await wait_until(lambda: Counter(row["fate"] for row in journalled(path)) == {"dropped": 20})
        assert client.data() == []


async def test_only_the_venue_or_key_of_the_tag_stalls() -> None:
    async with (
        simulating(venues="kis,kiwoom", rate=1000, faults=("stall:0.1:30@kiwoom",)) as venue,
        kis(venue) as client,
        kiwoom(venue) as other,
    ):
        other.ask("REG", [SYMBOL], ["0B"])
        await streaming(client, 200)
        count = len(other.entries())
        frames = len(client.data())
        await wait_until(lambda: len(client.data()) > frames + 200)
        assert len(other.entries()) == count


def test_the_random_schedule_of_a_seed_is_always_the_same() -> None:
    first, again, other = ([*itertools.islice(schedule(seed, 2.0), 200)] for seed in ("7", "7", "8"))

    assert first == again
    assert first != other
    assert {item.act for item in first} == set(ACTS)
    assert 1.0 < sum(item.delay_s for item in first) / 200 < 3.0


async def test_faults_at_random_are_journalled_and_survivable(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    async with simulating(rate=1000, chaos="3:0.05", faults=("replay:20",), journal=str(path)) as venue:
        acts: set[str] = set()
        while len(acts) < 5:
            async with kis(venue) as client:
                client.register(TRADE, SYMBOL)
                await wait_until(
                    lambda: client.wire.is_lost or any(s.is_half_open for s in venue._venue.sessions.values())
                )
            acts = {
                event["event"]
                for line in events_path(path).read_text().splitlines()
                if (event := json.loads(line))["event"].startswith("chaos_")
            }


async def test_a_fault_that_cannot_be_read_is_refused_while_running() -> None:
    async with simulating() as venue:
        status, text = await post(f"{venue.rest_url}/faults", "nonsense:1")
        assert (status, "nonsense" in text) == (400, True)
        assert (await post(f"{venue.rest_url}/faults", "silent:000660\nlate_ack:0.1"))[0] == 204
