"""The simulator on real sockets speaks the venue's dialect, and its journal is what a client receives."""

import asyncio
import csv
import json
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest
from picows import WSListener, WSMsgType, WSTransport, ws_connect

from daemon.simulator import Simulator, SimulatorOptions
from daemon.simulator.journal import events_path

TRADE, BOOK = "H0STCNT0", "H0STASP0"
WIDTHS = {TRADE: 47, BOOK: 63}
DEADLINE_S = 20.0


@asynccontextmanager
async def simulator(**options: Any) -> AsyncIterator[Simulator]:
    """One simulator on free ports; it offers nothing unless a test lets it."""
    running = Simulator(SimulatorOptions(**{"pingpong_interval_s": 60.0, **options}))
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def ask_approval(simulator: Simulator, **fields: str) -> tuple[int, dict[str, str]]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{simulator.rest_url}/oauth2/Approval", json=fields) as reply,
    ):
        return reply.status, await reply.json()


async def approval_key(simulator: Simulator, app_key: str = "app-1") -> str:
    _, fields = await ask_approval(simulator, grant_type="client_credentials", appkey=app_key, secretkey="secret")
    return fields["approval_key"]


class Client:
    """A venue client that keeps what it gets: replies apart from data, both in order."""

    def __init__(self, url: str, key: str = "", *, echo: bool = True) -> None:
        self.replies: list[dict[str, Any]] = []
        self.data: list[str] = []
        self.heartbeats = 0
        self.closed_with: int | None = None
        self.error: BaseException | None = None
        self._url, self._key, self._echo = url, key, echo
        self._http = aiohttp.ClientSession()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.socket = await self._http.ws_connect(f"{self._url}/tryitout", autoping=True)
        self._reader = asyncio.create_task(self._read(), name="client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reader is not None
        await self.socket.close()
        await self._reader
        await self._http.close()

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                self.error = self.socket.exception()
                continue
            text = message.data
            if text[0] in "01":
                self.data.append(text)
            elif "PINGPONG" in text:
                self.heartbeats += 1
                if self._echo:
                    await self.socket.send_str(text)
            else:
                self.replies.append(json.loads(text))
        self.closed_with = self.socket.close_code

    async def send(self, tr_id: str, tr_key: str, *, tr_type: str = "1", key: str | None = None) -> None:
        await self.socket.send_json(
            {
                "header": {
                    "approval_key": self._key if key is None else key,
                    "custtype": "P",
                    "tr_type": tr_type,
                    "content-type": "utf-8",
                },
                "body": {"input": {"tr_id": tr_id, "tr_key": tr_key}},
            }
        )

    async def next_code(self) -> str:
        """The msg_cd of the one reply that is awaited now."""
        await wait_until(lambda: bool(self.replies))
        assert len(self.replies) == 1
        return str(self.replies.pop()["body"]["msg_cd"])

    async def request(self, *arguments: str, **options: str) -> str:
        await self.send(*arguments, **options)
        return await self.next_code()


def records(frames: list[str]) -> Counter[tuple[str, str, str, str, str]]:
    """What the journal should say of *frames*: (kind, symbol, key, price, size) of each record."""
    found: Counter[tuple[str, str, str, str, str]] = Counter()
    for frame in frames:
        flag, tr_id, count, payload = frame.split("|", 3)
        fields, width = payload.split("^"), WIDTHS[tr_id]
        assert (flag, len(fields)) == ("0", width * int(count))
        for start in range(0, len(fields), width):
            one = fields[start : start + width]
            if tr_id == TRADE:
                found["trade", one[0], one[13], one[2], one[12]] += 1
            else:
                found["orderbook", one[0], one[32], one[3], one[23]] += 1
    return found


def journalled(path: Path) -> Counter[tuple[str, str, str, str, str]]:
    with path.open(newline="") as file:
        return Counter((r["kind"], r["symbol"], r["key"], r["price"], r["size"]) for r in csv.DictReader(file))


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events_path(path).read_text().splitlines()]


async def test_an_approval_key_is_issued_for_complete_credentials_only() -> None:
    async with simulator() as venue:
        good = {"grant_type": "client_credentials", "appkey": "app-1", "secretkey": "secret"}

        status, fields = await ask_approval(venue, **good)
        assert (status, list(fields)) == (200, ["approval_key"])

        for missing, code in (("grant_type", "EGW00101"), ("appkey", "EGW00103"), ("secretkey", "EGW00105")):
            status, fields = await ask_approval(venue, **{k: v for k, v in good.items() if k != missing})
            assert (status, fields["error_code"]) == (403, code)
            assert fields["error_description"]


@pytest.mark.requirement("SUB-CONF-01")
async def test_registrations_are_confirmed_repeated_and_removed_in_the_venues_words() -> None:
    async with simulator(start_after=99) as venue, Client(venue.ws_url, await approval_key(venue)) as client:
        await client.send(TRADE, "005930")
        await wait_until(lambda: bool(client.replies))
        reply = client.replies.pop()
        assert reply["header"] == {"tr_id": TRADE, "tr_key": "005930", "encrypt": "N"}
        assert (reply["body"]["rt_cd"], reply["body"]["msg1"]) == ("0", "SUBSCRIBE SUCCESS")
        assert (len(reply["body"]["output"]["iv"]), len(reply["body"]["output"]["key"])) == (16, 32)

        assert await client.request(TRADE, "005930") == "OPSP0002"
        assert await client.request(BOOK, "005930") == "OPSP0000"
        assert venue.registrations == 2
        assert await client.request(TRADE, "005930", tr_type="2") == "OPSP0001"
        assert await client.request(TRADE, "005930", tr_type="2") == "OPSP0003"
        assert venue.registrations == 1


async def test_what_is_wrong_with_a_request_is_named_by_its_code() -> None:
    async with simulator() as venue, Client(venue.ws_url, await approval_key(venue)) as client:
        assert await client.request("H0STXXX0", "005930") == "OPSP8991"
        assert await client.request(TRADE, "59") == "OPSP8993"
        assert await client.request(TRADE, "005930", tr_type="0") == "OPSP8997"
        assert await client.request(TRADE, "005930", key="00000000-0000-0000-0000-000000000000") == "OPSP0011"
        assert await client.request(TRADE, "005930", key="열쇠") == "OPSP0011"
        await client.socket.send_str("{not json")
        assert await client.next_code() == "OPSP9999"
        assert await client.request(TRADE, "005930") == "OPSP0000"  # none of this ended the session


async def test_an_empty_text_is_answered_and_ends_the_session() -> None:
    async with simulator() as venue, Client(venue.ws_url) as client:
        await client.socket.send_str("")

        assert await client.next_code() == "OPSP9999"
        await wait_until(lambda: client.closed_with is not None)


async def test_the_forty_second_registration_of_a_session_is_refused() -> None:
    async with simulator(start_after=99) as venue, Client(venue.ws_url, await approval_key(venue)) as client:
        codes = [await client.request((TRADE, BOOK)[n % 2], f"{n // 2:06d}") for n in range(42)]

        assert codes == ["OPSP0000"] * 41 + ["OPSP0008"]
        assert await client.request(TRADE, "000000") == "OPSP0002"  # known ones are still known
        assert await client.request(TRADE, "000000", tr_type="2") == "OPSP0001"
        assert await client.request(BOOK, "000020") == "OPSP0000"  # a place became free


async def test_an_app_key_has_one_session_and_is_free_again_when_it_closes() -> None:
    async with simulator(start_after=99) as venue:
        key, later_key = await approval_key(venue), await approval_key(venue)
        async with Client(venue.ws_url, later_key) as second:
            async with Client(venue.ws_url, key) as first:
                assert await first.request(TRADE, "005930") == "OPSP0000"
                assert await second.request(TRADE, "000660") == "OPSP8996"
                assert venue.registrations == 1
            await wait_until(lambda: venue.totals()["sessions_open"] == 1)

            assert await second.request(TRADE, "000660") == "OPSP0000"


async def test_two_app_keys_have_two_sessions() -> None:
    async with (
        simulator(start_after=99) as venue,
        Client(venue.ws_url, await approval_key(venue, "app-1")) as first,
        Client(venue.ws_url, await approval_key(venue, "app-2")) as second,
    ):
        assert await first.request(TRADE, "005930") == "OPSP0000"
        assert await second.request(TRADE, "005930") == "OPSP0000"


@pytest.mark.requirement("E2E-OBS-01")
@pytest.mark.parametrize(
    "options",
    [{}, {"records_per_frame": 7}, {"fragment": 0.5}, {"records_per_frame": 5, "fragment": 1.0, "book_share": 0.2}],
    ids=["plain", "many records a frame", "fragments", "all at once"],
)
async def test_the_journal_is_exactly_what_the_clients_received(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "journal.csv"
    async with (
        simulator(rate=20_000, seconds=0.25, start_after=8, journal=str(path), **options) as venue,
        Client(venue.ws_url, await approval_key(venue, "app-1")) as first,
        Client(venue.ws_url, await approval_key(venue, "app-2")) as second,
    ):
        for client, symbols in ((first, ("005930", "000660")), (second, ("035720", "0000D0"))):
            for symbol in symbols:
                await client.send(TRADE, symbol)
                await client.send(BOOK, symbol)
        await venue.wait_finished()
        await wait_until(lambda: records(first.data + second.data).total() == venue.totals()["sent"]["total"])
        totals = venue.totals()

    received = records(first.data + second.data)
    assert received == journalled(path)
    assert max(received.values()) == 1
    assert received.total() == 5_000
    assert totals["withheld"] == 0
    assert bool(options.get("fragment")) == bool(totals["fragmented"])
    for symbol, sent in totals["symbols"].items():
        for kind in ("trade", "orderbook"):
            assert sent[kind] == sum(1 for record in received if record[:2] == (kind, symbol))
    assert not [frame for frame in first.data if "^035720^" in frame or "^0000D0^" in frame]


async def test_cumulative_volume_has_no_hole_over_a_reconnect() -> None:
    async with simulator(rate=4_000) as venue:
        key, seen = await approval_key(venue), defaultdict(list)
        for _ in range(3):
            async with Client(venue.ws_url, key) as client:
                await client.send(TRADE, "005930")
                await client.send(BOOK, "005930")
                await wait_until(lambda: len(client.data) > 100)
                await client.send(TRADE, "005930", tr_type="2")
                await client.send(BOOK, "005930", tr_type="2")
                await wait_until(lambda: len(client.replies) == 4)
            await wait_until(lambda: venue.totals()["sessions_open"] == 0)
            for kind, _, number, _, size in records(client.data):
                seen[kind].append((int(number), int(size)))

    numbers = [number for number, _ in seen["orderbook"]]
    assert numbers == list(range(1, len(numbers) + 1))
    before = 0
    for cum_volume, traded in seen["trade"]:
        assert cum_volume == before + traded
        before = cum_volume


async def test_heartbeats_are_sent_and_their_echoes_counted() -> None:
    async with simulator(pingpong_interval_s=0.02) as venue, Client(venue.ws_url):
        await wait_until(lambda: venue.totals()["pingpong"]["echoed"] >= 3)

        assert venue.totals()["pingpong"]["echo_max_ms"] > 0


async def test_a_session_that_echoes_nothing_is_dropped() -> None:
    async with (
        simulator(pingpong_interval_s=0.02, pingpong_timeout_s=0.1) as venue,
        Client(venue.ws_url, echo=False) as client,
    ):
        await wait_until(lambda: client.closed_with is not None)

        assert venue.totals()["pingpong"]["timeouts"] == 1


class Sleeper(WSListener):
    """A client that stops reading from its socket once it is connected."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport


@pytest.mark.requirement("BP-01")
async def test_records_for_a_client_that_does_not_read_are_withheld_not_hoarded(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    async with simulator(rate=400_000, journal=str(path)) as venue:
        transport, _ = await ws_connect(Sleeper, venue.ws_url)
        transport.underlying_transport.pause_reading()
        for tr_id in (TRADE, BOOK):
            transport.send(
                WSMsgType.TEXT,
                json.dumps(
                    {
                        "header": {"approval_key": await approval_key(venue), "custtype": "P", "tr_type": "1"},
                        "body": {"input": {"tr_id": tr_id, "tr_key": "005930"}},
                    }
                ).encode(),
            )

        await wait_until(lambda: venue.totals()["withheld"] > 10_000)
        totals = venue.totals()
        transport.disconnect(graceful=False)
        await wait_until(lambda: venue.totals()["sessions_open"] == 0)
        totals = venue.totals()

    # What the kernel holds for both ends, plus the limit, plus one tick.
    assert totals["bytes"] < 40 << 20
    assert journalled(path).total() == totals["sent"]["total"]


async def test_session_events_are_journalled_with_their_codes(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    async with simulator(journal=str(path), start_after=99) as venue:
        async with Client(venue.ws_url, await approval_key(venue)) as client:
            await client.request(TRADE, "005930")
            await client.request(TRADE, "005930", tr_type="2")
        await wait_until(lambda: venue.totals()["sessions_open"] == 0)

    found = events(path)
    assert [(event["event"], event.get("msg_cd")) for event in found] == [
        ("connect", None),
        ("subscribe", "OPSP0000"),
        ("unsubscribe", "OPSP0001"),
        ("disconnect", None),
    ]
    assert [event["time_ns"] for event in found] == sorted(event["time_ns"] for event in found)
    assert {event["session"] for event in found} == {1}


# Faults


async def test_no_ack_ignores_the_first_requests() -> None:
    async with (
        simulator(faults=("no_ack:005930:2",), start_after=99) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        await client.send(TRADE, "005930")
        await client.send(TRADE, "005930")
        assert await client.request(TRADE, "000660") == "OPSP0000"  # the only reply so far
        assert await client.request(TRADE, "005930") == "OPSP0000"


@pytest.mark.requirement("BUG-001")
async def test_lost_ack_registers_all_the_same() -> None:
    async with (
        simulator(faults=("lost_ack:005930:1",), start_after=99) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        await client.send(TRADE, "005930")
        assert await client.request(TRADE, "005930") == "OPSP0002"


async def test_late_ack_lets_data_overtake_the_reply() -> None:
    async with (
        simulator(faults=("late_ack:0.2",), rate=1_000) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        await client.send(TRADE, "005930")
        await wait_until(lambda: bool(client.data))
        assert not client.replies
        assert await client.next_code() == "OPSP0000"


async def test_an_error_is_answered_as_often_as_asked() -> None:
    faults = ("error:005930:OPSP0007:2", "error:000660:OPSP8992")
    async with (
        simulator(faults=faults, start_after=99) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        codes = [await client.request(TRADE, "005930") for _ in range(3)]
        assert codes == ["OPSP0007", "OPSP0007", "OPSP0000"]
        assert {await client.request(TRADE, "000660") for _ in range(3)} == {"OPSP8992"}


async def test_ack_wrong_tr_sends_stray_successes_before_the_right_one() -> None:
    async with (
        simulator(faults=("ack_wrong_tr",), start_after=99) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        await client.send(TRADE, "005930")
        await wait_until(lambda: len(client.replies) == 3)

        assert [(reply["header"]["tr_id"], reply["body"]["msg_cd"]) for reply in client.replies] == [
            (TRADE, "OPSP0001"),
            (BOOK, "OPSP0001"),
            (TRADE, "OPSP0000"),
        ]


async def test_a_lower_limit_is_refused_earlier() -> None:
    async with (
        simulator(faults=("limit:1",), start_after=99) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        assert [await client.request(TRADE, s) for s in ("005930", "000660")] == ["OPSP0000", "OPSP0008"]


async def test_close_ends_every_session_properly() -> None:
    async with simulator(faults=("close:0.05",)) as venue, Client(venue.ws_url) as client:
        await wait_until(lambda: client.closed_with is not None)

        assert client.closed_with == 1000


async def test_abort_resets_the_connection_inside_a_fragmented_frame(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    async with (
        simulator(faults=("abort:0.1",), rate=2_000, journal=str(path)) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        await client.send(TRADE, "005930")
        await wait_until(lambda: client.closed_with is not None)

        assert client.closed_with == 1006
        await wait_until(lambda: venue.totals()["sessions_open"] == 0)

    received = records(client.data)  # whole frames only
    assert received.total() > 0
    assert not received - journalled(path)
    assert "abort" in {event["event"] for event in events(path)}


async def test_the_reset_is_a_real_one_and_leaves_half_a_message() -> None:
    async with simulator(faults=("abort:0.05",)) as venue:
        host, port = venue.ws_url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b"101" in await reader.readuntil(b"\r\n\r\n")

        first_two = await reader.readexactly(2)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    assert first_two[0] == 0x01  # text, not final; nothing follows but the reset


@pytest.mark.requirement("KEY-01")
async def test_expire_key_refuses_the_first_key_and_takes_the_second() -> None:
    async with simulator(faults=("expire_key",), start_after=99) as venue:
        first, second = await approval_key(venue), await approval_key(venue)
        async with Client(venue.ws_url, first) as client:
            assert await client.request(TRADE, "005930") == "OPSP0011"
            assert await client.request(TRADE, "005930", key=second) == "OPSP0000"


async def test_refuse_approval_answers_500_so_many_times() -> None:
    async with simulator(faults=("refuse_approval:2",)) as venue:
        good = {"grant_type": "client_credentials", "appkey": "app-1", "secretkey": "secret"}

        assert [(await ask_approval(venue, **good))[0] for _ in range(3)] == [500, 500, 200]


async def test_garbage_comes_in_every_shape_beside_the_data() -> None:
    async with simulator(faults=("garbage:500",), rate=500) as venue:
        key = await approval_key(venue)
        listener = Keeper()
        transport, _ = await ws_connect(lambda: listener, venue.ws_url)  # aiohttp would hang up on invalid UTF-8
        transport.send(
            WSMsgType.TEXT,
            json.dumps(
                {
                    "header": {"approval_key": key, "custtype": "P", "tr_type": "1"},
                    "body": {"input": {"tr_id": TRADE, "tr_key": "005930"}},
                }
            ).encode(),
        )
        await wait_until(lambda: len(venue.totals()["garbage"]) == 5 and len(listener.messages) > 50)
        transport.disconnect()

    assert any(b"\xff\xfe" in message for message in listener.messages)
    assert any(message.startswith(b"0|H0ZZZZZ9|") for message in listener.messages)
    good = [m.decode() for m in listener.messages if m.startswith(b"0|H0STCNT0|001|005930")]
    assert records(good).total() == len(good) > 0


class Keeper(WSListener):
    """A client that keeps each message as bytes."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def on_ws_frame(self, transport: WSTransport, frame: Any) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.messages.append(frame.get_payload_as_bytes())


async def test_a_stall_sends_nothing_then_goes_on() -> None:
    async with (
        simulator(faults=("stall:0.05:0.3",), rate=2_000, pingpong_interval_s=0.02) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        await client.send(TRADE, "005930")
        await wait_until(lambda: venue._venue.is_stalled)
        await client.send(BOOK, "005930")
        sent = venue.totals()["messages"]
        await wait_until(lambda: venue.totals()["replies"]["OPSP0000"] == 2)
        assert venue.totals()["messages"] == sent  # not even the reply
        await wait_until(lambda: venue.totals()["messages"] > sent + 100)


@pytest.mark.parametrize(
    ("fault", "kinds"), [("pingpong_only", set()), ("silent:005930", {"000660"})], ids=["everything", "one symbol"]
)
async def test_silence_keeps_the_link_alive_without_data(fault: str, kinds: set[str]) -> None:
    async with (
        simulator(faults=(fault,), rate=2_000, pingpong_interval_s=0.02) as venue,
        Client(venue.ws_url, await approval_key(venue)) as client,
    ):
        assert [await client.request(TRADE, symbol) for symbol in ("005930", "000660")] == ["OPSP0000"] * 2
        await wait_until(lambda: client.heartbeats >= 5)

        assert kinds == {symbol for _, symbol, *_ in records(client.data)}


# The process


async def test_the_process_says_where_it_listens_and_what_it_sent(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon.simulator", "--rate", "5000", "--seconds", "0.2", "--journal", str(path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    address = json.loads(await process.stdout.readline())
    assert set(address) == {"ws_url", "rest_url", "pid", "venues"}
    assert address["pid"] == process.pid
    assert address["ws_url"].startswith("ws://127.0.0.1:")
    async with aiohttp.ClientSession() as http:
        body = {"grant_type": "client_credentials", "appkey": "app-1", "secretkey": "secret"}
        async with http.post(f"{address['rest_url']}/oauth2/Approval", json=body) as reply:
            key = (await reply.json())["approval_key"]
    async with Client(address["ws_url"], key) as client:
        await client.send(TRADE, "005930")
        await wait_until(lambda: records(client.data).total() == 1_000)
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()

    totals = json.loads(out.splitlines()[-1])
    assert (process.returncode, totals["sent"]["total"], totals["finished"]) == (0, 1_000, True)
    assert records(client.data) == journalled(path)
    assert client.closed_with == 1001


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--fault", "nonsense:1"], "nonsense"),
        (["--rate", "0"], "rate"),
    ],
)
async def test_a_bad_option_is_one_line_and_exit_2(arguments: list[str], complaint: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon.simulator", *arguments), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()

    assert process.returncode == 2
    assert complaint in errors.decode().splitlines()[-1]
