"""The simulated Kiwoom, Upbit and the rest of KIS speak the dialects that the venues document."""

import asyncio
import base64
import csv
import itertools
import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from picows import WSInvalidStatusError, WSMsgType

from daemon.simulator.simulator import Simulator
from tests.integration.venue_clients import (
    credentials,
    kis,
    kiwoom,
    post,
    simulating,
    upbit,
    wait_until,
)


def journalled(path: Path, **wanted: str) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]


# KIS


async def test_us_streams_have_their_widths_both_clocks_and_an_unbroken_volume(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    options: dict[str, Any] = {"rate": 2000, "clock": "2026-11-20T23:30:15+09:00", "journal": str(path)}
    async with simulating(**options) as venue, kis(venue) as client:
        client.register("HDFSCNT0", "DNASAAPL")
        client.register("HDFSASP0", "DNASAAPL")
        await wait_until(lambda: len(client.data()) > 400)
    trades, books = list(client.records("HDFSCNT0", 26)), list(client.records("HDFSASP0", 71))

    assert len(trades) > 100
    assert len(books) > 100
    before = 0
    for fields in trades:
        assert fields[:2] == ["DNASAAPL", "AAPL"]
        assert (fields[4], fields[5][:4], fields[6], fields[7][:4]) == ("20261120", "0930", "20261120", "2330")
        assert int(fields[20]) == before + int(fields[19])
        before = int(fields[20])
        assert float(fields[10]) <= float(fields[11]) <= float(fields[9])
    for fields in books:
        bids, asks = ([float(f) for f in fields[at::6]] for at in (11, 12))
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]
    assert [int(fields[68]) for fields in books] == list(range(1, len(books) + 1))
    rows = journalled(path, market="us", venue="kis", symbol="AAPL", fate="sent")
    assert [(r["key"], r["price"], r["size"]) for r in rows if r["kind"] == "trade"][: len(trades)] == [
        (f[20], f[11], f[19]) for f in trades
    ]


async def test_new_york_follows_its_daylight_saving_time() -> None:
    for clock, expected in (("2026-07-10T23:30:15+09:00", "1030"), ("2026-12-10T23:30:15+09:00", "0930")):
        async with simulating(rate=500, clock=clock) as venue, kis(venue) as client:
            client.register("HDFSCNT0", "RBAQAAPL")
            await wait_until(lambda: bool(client.data()))
            assert next(client.records("HDFSCNT0", 26))[5][:4] == expected


async def test_nxt_and_unified_streams_of_one_symbol_are_streams_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    trs = {"H0STCNT0": 47, "H0STASP0": 63, "H0NXCNT0": 47, "H0NXASP0": 65, "H0UNCNT0": 47, "H0UNASP0": 66}
    async with simulating(rate=2000, journal=str(path)) as venue, kis(venue) as client:
        for tr_id in trs:
            client.register(tr_id, "005930")
        await wait_until(lambda: len(client.data()) > 600)

    for tr_id, width in trs.items():
        found = list(client.records(tr_id, width))
        assert found, tr_id
        if width == 47:
            volumes = [(int(fields[13]), int(fields[12])) for fields in found]
            assert all(b == a + size for (a, _), (b, size) in itertools.pairwise(volumes)), tr_id
    rows = journalled(path, symbol="005930", kind="trade")
    assert {row["exchange"] for row in rows} == {"", "nxt", "sor"}
    assert len({row["key"] for row in rows}) == len(rows)  # one table can hold all three


@pytest.mark.parametrize(
    ("tr_id", "tr_key", "width"),
    [
        ("H0STANC0", "005930", 46), ("H0UPCNT0", "0001", 30), ("H0STNAV0", "069500", 8), ("H0STMKO0", "005930", 10),
        ("H0STPGM0", "005930", 11),
    ],
)  # fmt: skip
async def test_what_comes_by_the_clock_comes_when_it_is_registered(tr_id: str, tr_key: str, width: int) -> None:
    async with simulating(rate=100, event_interval_s=0.03) as venue, kis(venue) as client:
        client.register(tr_id, tr_key)
        await wait_until(lambda: len(client.data()) >= 3)

    found = list(client.records(tr_id, width))
    assert len(found) == len(client.data())
    assert {fields[0] for fields in found} == {tr_key}


async def test_order_notices_can_be_read_with_the_key_of_the_reply() -> None:
    async with simulating(rate=100, event_interval_s=0.03) as venue, kis(venue) as client:
        client.register("H0STCNI0", "HTSID001")
        await wait_until(lambda: bool(client.data()))

    output = next(m["body"]["output"] for m in client.wire.parsed() if "body" in m)
    flag, tr_id, _, payload = client.data()[0].decode().split("|", 3)
    decryptor = Cipher(algorithms.AES(output["key"].encode()), modes.CBC(output["iv"].encode())).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    plain = unpadder.update(decryptor.update(base64.b64decode(payload)) + decryptor.finalize()) + unpadder.finalize()
    assert (flag, tr_id, plain.split(b"^")[0]) == ("1", "H0STCNI0", b"HTSID001")


@pytest.mark.requirement("F22")
async def test_two_accounts_of_one_symbol_get_the_same_records_and_the_journal_has_each_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    options: dict[str, Any] = {"rate": 2000, "seconds": 0.3, "start_after": 4, "journal": str(path)}
    async with simulating(**options) as venue, kis(venue, "a") as left, kis(venue, "b") as right:
        for client in (left, right):
            client.register("H0STCNT0", "005930")
            client.register("H0STASP0", "005930")
        await venue.wait_finished()
        await wait_until(lambda: len(left.data()) == len(right.data()) == 600)

    assert left.data() == right.data()
    assert len(journalled(path, fate="sent")) == 600


# Kiwoom


async def test_a_token_is_issued_with_its_end_in_korean_time_and_wrong_credentials_are_refused() -> None:
    async with simulating(venues="kiwoom", clock="2026-11-20T10:30:00+09:00") as venue:
        url = f"{venue.rest_url}/oauth2/token"

        status, fields = await post(url, credentials())
        assert (status, fields["return_code"], fields["token_type"]) == (200, 0, "bearer")
        assert fields["expires_dt"].startswith("20261121103")
        _, fields = await post(url, credentials("wrong"))
        assert fields["return_code"] == 3
        assert "[8001:" in fields["return_msg"]


async def test_a_session_must_log_in_first() -> None:
    async with simulating(venues="kiwoom", login_timeout_s=0.1) as venue:
        async with kiwoom(venue, token="") as silent:
            await wait_until(lambda: silent.wire.is_lost)
        async with kiwoom(venue, token="") as hasty:
            hasty.ask("REG", ["005930"], ["0B"])
            await wait_until(lambda: hasty.wire.is_lost)
        async with kiwoom(venue, token="unknown") as stranger:
            await wait_until(lambda: stranger.wire.is_lost)

    assert [reply["code"] for client in (silent, hasty) for reply in client.replies("SYSTEM")] == ["R10004"] * 2
    assert stranger.replies("LOGIN")[0]["return_code"] == 805004
    assert "CODE=8005" in stranger.replies("LOGIN")[0]["return_msg"]


async def test_a_newer_login_of_the_same_app_key_ends_the_older_session() -> None:
    async with simulating(venues="kiwoom") as venue, kiwoom(venue) as older, kiwoom(venue) as newer:
        await wait_until(lambda: older.wire.is_lost)
        newer.ask("REG", ["005930"], ["0B"])
        await wait_until(lambda: newer.replies("REG"))

    assert older.replies("SYSTEM")[0]["code"] == "R10001"
    assert newer.replies("REG")[0]["return_code"] == 0


async def test_items_and_types_are_registered_crosswise_and_removed(tmp_path: Path) -> None:
    async with (
        simulating(venues="kiwoom", rate=2000, journal=str(tmp_path / "j.csv")) as venue,
        kiwoom(venue) as client,
    ):
        client.ask("REG", ["005930", "000660_AL"], ["0B", "0D"])
        await wait_until(lambda: {(e["type"], e["item"]) for e in client.entries()} == {
            (kind, item) for kind in ("0B", "0D") for item in ("005930", "000660_AL")
        })  # fmt: skip
        assert venue.registrations == 4
        client.ask("REMOVE", ["005930"], ["0B"])
        await wait_until(lambda: client.replies("REMOVE"))
        assert venue.registrations == 3
        client.ask("REG", ["035720"], ["0B"], refresh="0")
        await wait_until(lambda: len(client.replies("REG")) == 2)
        assert venue.registrations == 1

    for entry in client.entries("0B"):
        values = entry["values"]
        assert values["10"][0] in "+-0123456789"
        assert values["15"][0] in "+-"
    trades = [e["values"] for e in client.entries("0B") if e["item"] == "005930"]
    volumes = [int(values["13"]) for values in trades]
    sizes = [abs(int(values["15"])) for values in trades]
    assert volumes == [sum(sizes[: n + 1]) for n in range(len(sizes))]
    books = [e["values"] for e in client.entries("0D") if e["item"] == "005930"]
    assert [int(values["70"]) for values in books] == list(range(1, len(books) + 1))
    rows = journalled(tmp_path / "j.csv", venue="kiwoom", symbol="000660", exchange="sor", kind="trade")
    sent = [e["values"] for e in client.entries("0B") if e["item"] == "000660_AL"]
    assert [(v["13"], v["10"].lstrip("+-")) for v in sent] == [(r["key"], r["price"]) for r in rows][: len(sent)]


async def test_the_order_of_keys_changes_and_frames_have_several_entries() -> None:
    async with simulating(venues="kiwoom", rate=2000, records_per_frame=5) as venue, kiwoom(venue) as client:
        client.ask("REG", ["005930", "000660"], ["0B", "0D"])
        await wait_until(lambda: len(client.entries("0B")) > 300)

    messages = client.replies("REAL")
    assert {tuple(message) for message in messages} == {("trnm", "data"), ("data", "trnm")}
    assert len({tuple(entry) for entry in client.entries()}) > 5
    assert len({tuple(entry["values"]) for entry in client.entries("0B")}) > 5
    assert max(len(message["data"]) for message in messages) == 5
    assert any(len({entry["item"] for entry in message["data"]}) == 2 for message in messages)


async def test_other_types_come_by_the_clock() -> None:
    async with simulating(venues="kiwoom", rate=100, event_interval_s=0.03) as venue, kiwoom(venue) as client:
        client.ask("REG", ["005930"], ["0A", "0C", "0H"])
        client.ask("REG", [""], ["0s", "1h"])
        await wait_until(lambda: {e["type"] for e in client.entries()} == {"0A", "0C", "0H", "0s", "1h"})


async def test_too_many_are_refused_in_korean_with_a_code_that_is_not_zero() -> None:
    async with simulating(venues="kiwoom", faults=("limit:3",)) as venue, kiwoom(venue) as client:
        client.ask("REG", ["005930", "000660"], ["0B", "0D"])
        await wait_until(lambda: client.replies("REG"))
        assert (client.replies("REG")[0]["return_code"], venue.registrations) == (1, 0)
        assert re.search("[가-힣]", client.replies("REG")[0]["return_msg"])
        client.ask("REG", [f"{n:06d}" for n in range(101)], ["0B"])
        await wait_until(lambda: len(client.replies("REG")) == 2)
        assert client.replies("REG")[1]["return_code"] == 1


async def test_a_ping_must_come_back_byte_for_byte() -> None:
    async with simulating(venues="kiwoom", pingpong_interval_s=0.03) as venue:
        async with kiwoom(venue) as good:
            for count in range(1, 4):
                await wait_until(lambda: len(good.replies("PING")) >= count)  # noqa: B023
                good.wire.send([t for t in good.wire.texts() if b"PING" in t][-1])
            await wait_until(lambda: venue.totals()["pingpong"]["echoed"] >= 2)
            assert not good.wire.is_lost
        async with kiwoom(venue) as bad:
            await wait_until(lambda: bad.replies("PING"))
            bad.wire.send('{"trnm":"PONG"}')
            await wait_until(lambda: bad.wire.is_lost)
    async with (
        simulating(venues="kiwoom", pingpong_interval_s=0.03, pingpong_timeout_s=0.1) as venue,
        kiwoom(venue) as mute,
    ):
        await wait_until(lambda: mute.wire.is_lost)

    assert [client.replies("SYSTEM")[0]["code"] for client in (bad, mute)] == ["R10002", "R10002"]


async def test_an_answer_to_a_system_message_closes_the_socket() -> None:
    async with simulating(venues="kiwoom") as venue, kiwoom(venue) as client:
        client.wire.send('{"trnm":"SYSTEM","code":"R10001"}')
        await wait_until(lambda: client.wire.is_lost)


# Upbit


TRADES = {"type": "trade", "codes": ["KRW-BTC", "KRW-ETH"]}


async def test_messages_are_binary_snapshot_first_in_both_formats(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    async with simulating(venues="upbit", rate=1000, journal=str(path)) as venue:
        async with upbit(venue) as full:
            full.ask(TRADES, {"type": "orderbook", "codes": ["KRW-BTC.15"]})
            await wait_until(lambda: len(full.wire.frames) > 100)
        async with upbit(venue) as short:
            short.ask(TRADES, {"type": "orderbook", "codes": ["KRW-BTC.5"]}, form="SIMPLE")
            await wait_until(lambda: len(short.wire.frames) > 100)

    assert {kind for kind, _ in full.wire.frames + short.wire.frames} == {WSMsgType.BINARY}
    for client, names in ((full, ("code", "stream_type", "sequential_id")), (short, ("cd", "st", "sid"))):
        by_code = defaultdict(list)
        for trade in client.data("trade"):
            by_code[trade[names[0]]].append(trade)
        assert set(by_code) == {"KRW-BTC", "KRW-ETH"}
        for trades in by_code.values():
            assert [t[names[1]] for t in trades] == ["SNAPSHOT"] + ["REALTIME"] * (len(trades) - 1)
            ids = [t[names[2]] for t in trades]
            assert ids == sorted(set(ids))
    assert {len(book["orderbook_units"]) for book in full.data("orderbook")} == {15}
    assert {len(book["obu"]) for book in short.data("orderbook")} == {5}
    # The snapshot of the second session is the last trade of the first.
    assert short.data("trade")[0]["sid"] in {trade["sequential_id"] for trade in full.data("trade")}
    rows = journalled(path, venue="upbit", kind="trade", symbol="KRW-BTC")
    sent = [t for t in full.data("trade") if t["code"] == "KRW-BTC"]
    assert [(round(t["trade_volume"] * 1e8), t["trade_price"]) for t in sent] == [
        (int(r["key"]), float(r["price"])) for r in rows[: len(sent)]
    ]
    assert len({row["key"] for row in rows}) == len(rows)
    assert b"E-8" in b"".join(full.wire.texts())


async def test_a_request_replaces_the_one_before() -> None:
    async with simulating(venues="upbit", rate=1000) as venue, upbit(venue) as client:
        client.ask(TRADES)
        await wait_until(lambda: len(client.data("trade")) > 20)
        client.ask({"type": "orderbook", "codes": ["KRW-XRP"], "is_only_realtime": True}, form="JSON_LIST")
        await wait_until(lambda: venue.registrations == 1)
        count = len(client.wire.frames)
        await wait_until(lambda: len(client.wire.frames) > count + 20)

        late = [json.loads(payload) for payload in client.wire.texts()[-10:]]
    assert {(m[0]["type"], m[0]["code"], m[0]["stream_type"]) for m in late} == {("orderbook", "KRW-XRP", "REALTIME")}
    assert {len(m[0]["orderbook_units"]) for m in late} == {30}


@pytest.mark.parametrize(
    ("request_text", "name"),
    [
        ("{", "WRONG_FORMAT"),
        ("{}", "WRONG_FORMAT"),
        ('[{"type":"trade","codes":["KRW-BTC"]}]', "NO_TICKET"),
        ('[{"ticket":"x"}]', "NO_TYPE"),
        ('[{"ticket":"x"},{"codes":["KRW-BTC"]}]', "NO_TYPE"),
        ('[{"ticket":"x"},{"type":"trade"}]', "NO_CODES"),
        ('[{"ticket":"x"},{"type":"trade","codes":["krw-btc"]}]', "INVALID_PARAM"),
        ('[{"ticket":"x"},{"type":"what","codes":["KRW-BTC"]}]', "INVALID_PARAM"),
        ('[{"ticket":"x"},{"type":"trade","codes":["KRW-BTC"]},{"format":"X"}]', "WRONG_FORMAT"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(request_text: str, name: str) -> None:
    async with simulating(venues="upbit") as venue, upbit(venue) as client:
        client.wire.send(request_text)
        await wait_until(client.errors)
        assert client.errors() == [name]
        assert not client.wire.is_lost


async def test_ping_is_answered_and_idleness_ends_the_session() -> None:
    async with simulating(venues="upbit", idle_timeout_s=0.3) as venue, upbit(venue) as client:
        for _ in range(8):
            client.wire.send("PING")
            await asyncio.sleep(0.06)
        assert client.wire.parsed()[0] == {"status": "UP"}
        assert not client.wire.is_lost
        await wait_until(lambda: client.wire.is_lost)


async def test_more_requests_than_allowed_end_the_session() -> None:
    async with simulating(venues="upbit") as venue, upbit(venue) as client:
        for _ in range(6):
            client.ask(TRADES)
        await wait_until(lambda: client.wire.is_lost)

        assert client.errors() == ["TOO_MANY_REQUESTS"]


async def status_of(venue: Simulator) -> int:
    """What a connection is answered with."""
    try:
        async with upbit(venue):
            return 101
    except WSInvalidStatusError as exc:
        return int(exc.response.status) if exc.response else 0


async def test_a_burst_of_connections_is_answered_with_429() -> None:
    async with simulating(venues="upbit") as venue:
        statuses = [await status_of(venue) for _ in range(7)]
        assert statuses == [101] * 5 + [429] * 2
        last = time.monotonic()
        await wait_until(lambda: time.monotonic() >= last + 1.0)  # the venue's limit is one of a second
        async with upbit(venue, extra_headers={"Origin": "http://x"}):
            pass
        with pytest.raises(WSInvalidStatusError):
            async with upbit(venue, extra_headers={"Origin": "http://x"}):
                pass


# All together


async def test_three_venues_share_one_journal_and_one_rate(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    options: dict[str, Any] = {
        "venues": "kis=0.8,kiwoom,upbit", "rate": 2000, "seconds": 0.5, "start_after": 5, "journal": str(path),
    }  # fmt: skip
    async with simulating(**options) as venue, kis(venue) as korea, kiwoom(venue) as other, upbit(venue) as crypto:
        korea.register("H0STCNT0", "005930")
        korea.register("HDFSCNT0", "DNYSIBM")
        other.ask("REG", ["000660"], ["0B"])
        crypto.ask({**TRADES, "is_only_realtime": True})
        await venue.wait_finished()
        await wait_until(
            lambda: (len(korea.data()), len(other.entries()), len(crypto.data("trade"))) == (800, 100, 100)
        )
        totals = venue.totals()

    assert totals["sent"]["total"] == 1000
    assert {name: one["sent"]["total"] for name, one in totals["venues"].items()} == {
        "kis": 800, "kiwoom": 100, "upbit": 100,
    }  # fmt: skip
    rows = journalled(path)
    assert {(row["venue"], row["market"]) for row in rows} == {
        ("kis", "kr"), ("kis", "us"), ("kiwoom", "kr"), ("upbit", "crypto"),
    }  # fmt: skip
    assert len(rows) == 1000
