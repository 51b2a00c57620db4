"""Ring records become one Redis transaction of PUBLISH commands, and its replies are checked one by one."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.redis_encoder import PublishBatch, pack_command
from native_pipeline.redis_replies import TransactionReplies
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader, LossyReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import random_records, redis_messages
from tests.reference.packed_records import ABSENT, Book, Event, Gap, Ledger, Quarantine, Record, Trade, append

VENUES = ("", "kis", "kiwoom")
MARKETS = ("", "kr", "us")
RING = 7
KEPT_S = 48 * 3600
MINUTE_NS = 60_000_000_000


class Pipe:
    """A ring with one producer and one consumer."""

    def __init__(self, path: Path) -> None:
        create_ring(path, ring=RING, capacity_bytes=1 << 23, consumers=(("reader", GATING),))
        self.writer = RingWriter(path)
        self.reader = GatingReader(path, "reader")

    def put(self, *records: Record) -> list[int]:
        """Append and publish *records*; return their seqs."""
        seqs = [append(self.writer, record) for record in records]
        self.writer.publish()
        return seqs


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path_factory.mktemp("ring") / "worker-0.ring")
    yield pipe
    pipe.reader.close()
    pipe.writer.close()


@pytest.fixture(autouse=True)
def _leave_the_ring_empty(pipe: Pipe) -> Iterator[None]:
    yield
    new_batch().append_from(pipe.reader, 1 << 30)
    pipe.reader.commit()


def new_batch() -> PublishBatch:
    return PublishBatch(venues=VENUES, markets=MARKETS, minute_counts_kept_s=KEPT_S)


def payload(batch: PublishBatch) -> bytes:
    with batch.payload() as view:
        return bytes(view)


def publish_commands(batch: PublishBatch) -> list[list[bytes]]:
    return [words for words in redis_messages.commands(payload(batch)) if words[0] == b"PUBLISH"]


def first_message(batch: PublishBatch) -> bytes:
    return publish_commands(batch)[0][2]


@given(records=st.lists(random_records.records, max_size=30))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_transaction_is_the_one_that_the_reference_writes(pipe: Pipe, records: list[Record]) -> None:
    batch = new_batch()
    seqs = pipe.put(*records)

    assert batch.append_from(pipe.reader, 1000) == len(records)
    pipe.reader.commit()

    commands: list[tuple[bytes | str | int, ...]] = [("MULTI",)]
    channels: Counter[str] = Counter()
    minutes: Counter[tuple[int, bytes]] = Counter()
    last: dict[str, int] = {}
    for record, seq in zip(records, seqs, strict=True):
        if isinstance(record, Trade | Book | Event):
            channel, _ = redis_messages.message(record, source=RING, seq=seq, venues=VENUES, markets=MARKETS)
            _, message = redis_messages.message(
                record, source=RING, seq=seq, venues=VENUES, markets=MARKETS, prev_seq=last.get(channel, 0)
            )
            last[channel] = seq
            commands.append(("PUBLISH", channel, message))
            channels[channel] += 1
            kind, _, market = channel.partition(".")
            kind = {"ticker": "trade", "orderbook": "orderbook", "event": "event"}[kind]
            minutes[record.recv_ns // MINUTE_NS, market.encode() + b"|" + record.symbol + b"|" + kind.encode()] += 1
    published = batch.messages
    assert published == len(commands) - 1
    assert batch.channel_messages == channels
    # ids without a name share a key and are counted one after the other: compare what the server ends up with
    found = redis_messages.commands(payload(batch))
    assert found[: published + 1] == redis_messages.commands(redis_messages.joined(commands))
    tail = found[published + 1 : -2]
    counted = Counter({words[1]: 0 for words in tail})
    hashes: Counter[tuple[bytes, bytes]] = Counter()
    expiries = set()
    for words in tail:
        match words:
            case [b"INCRBY", key, n]:
                counted[key] += int(n)
            case [b"HINCRBY", key, field, n]:
                hashes[key, field] += int(n)
            case [b"EXPIRE", key, seconds]:
                assert int(seconds) == KEPT_S
                expiries.add(key)
            case [b"HSET", b"published:last", *words]:
                told = dict(zip(words[::2], map(int, words[1::2]), strict=True))
                assert told == {f"7:{channel}".encode(): seq for channel, seq in last.items()}
            case [b"HSET", *words]:
                assert words == [b"published:cursor", b"ring-7", f"{pipe.reader.epoch}:{seqs[-1]}".encode()]
            case _:
                pytest.fail(f"unexpected command {words}")
    assert +counted == {f"published:count:{channel}".encode(): n for channel, n in channels.items()}
    assert hashes == {(f"published:minute:{minute}".encode(), field): n for (minute, field), n in minutes.items()}
    assert expiries == {key for key, _ in hashes}
    assert found[-2:] == [[b"EXEC"], [b"WATCH", b"published:cursor"]]
    assert batch.commands == len(found) - 3  # without MULTI, EXEC, WATCH


def test_a_trade_has_the_shape_that_consumers_validate(pipe: Pipe) -> None:
    batch = new_batch()
    trade = Trade(
        symbol=b"005930", exchange_ns=1_763_596_801_000_000_000, utc_offset_min=540, recv_ns=1_763_596_801_123_456_789,
        price=(71200, 0), volume=(10, 0), change_rate=(-42, 2), cum_volume=(123_456, 0), ask=(71300, 0), side=2,
    )  # fmt: skip
    [seq] = pipe.put(trade)

    batch.append_from(pipe.reader, 1)

    [[_, channel, message]] = publish_commands(batch)
    assert channel == b"ticker.kr"
    assert json.loads(message) == {
        "type": "ticker", "timestamp": "2025-11-20T09:00:01+09:00", "symbol": "005930", "price": 71200, "change": -0.42,
        "volume": 10, "side": "sell", "cum_volume": 123_456, "ask": 71300, "bid": None, "market": "kr", "venue": "kis",
        "recv_ns": 1_763_596_801_123_456_789, "source": RING, "seq": seq, "prev_seq": 0,
    }  # fmt: skip


@pytest.mark.requirement("EDGE-01")
def test_an_order_book_lists_the_levels_that_exist_best_first(pipe: Pipe) -> None:
    batch = new_batch()
    [seq] = pipe.put(Book(asks=[((713, 1), (5, 0)), ((714, 1), (0, 0)), ((0, 0), (0, 0))], recv_ns=12, market=2))

    batch.append_from(pipe.reader, 1)

    [[_, channel, message]] = publish_commands(batch)
    assert channel == b"orderbook.us"
    assert json.loads(message) == {
        "type": "orderbook", "timestamp": "2025-11-20T09:00:01+09:00", "symbol": "005930",
        "asks": [{"price": 71.3, "vol": 5}, {"price": 71.4, "vol": 0}], "bids": [],
        "market": "us", "venue": "kis", "recv_ns": 12, "source": RING, "seq": seq, "prev_seq": 0,
    }  # fmt: skip


def test_an_event_says_its_type_and_what_the_venue_sent(pipe: Pipe) -> None:
    batch = new_batch()
    event = Event(
        symbol=b"0001", type=2, price=(265012, 2), volume=(12, 0), cum_volume=(ABSENT, 0), change_rate=(-15, 2),
        text="0001^\uc7a5\uc911\t^".encode(), flags=32, recv_ns=12,
    )  # fmt: skip
    [seq, _] = pipe.put(event, Event(type=4, text_is_cut=True))

    batch.append_from(pipe.reader, 2)

    [[_, channel, message], [_, _, second]] = publish_commands(batch)
    assert channel == b"event.kr"
    assert json.loads(message) == {
        "type": "index", "timestamp": "2025-11-20T09:00:01+09:00", "symbol": "0001", "price": 2650.12, "change": -0.15,
        "volume": 12, "cum_volume": None, "detail": "0001^\uc7a5\uc911\t^", "exchange": "sor", "market": "kr",
        "venue": "kis", "recv_ns": 12, "source": RING, "seq": seq, "prev_seq": 0,
    }  # fmt: skip
    assert json.loads(second).items() >= {"type": "status", "change": None, "detail": "", "detail_is_cut": True}.items()


@pytest.mark.requirement("EDGE-01")
@given(raw=random_records.venue_texts)
@example(raw=b"\0" * 65535)
@example(raw=b"\x01" * 65535)
@example(raw=b'"' * 65535)
@example(raw=b"\xff" * 65535)
@example(raw=("\uac00" * 21845).encode())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_of_a_venue_can_break_the_json_or_the_protocol(pipe: Pipe, raw: bytes) -> None:
    batch = new_batch()
    pipe.put(Event(text=raw), Trade(symbol=b"after"))

    batch.append_from(pipe.reader, 2)
    pipe.reader.commit()

    event, trade = (words[2] for words in publish_commands(batch))
    assert json.loads(event)["detail"] == raw.decode(errors="replace").replace("\0", "\ufffd")
    assert json.loads(trade)["symbol"] == "after"


@pytest.mark.requirement("BP-01")
def test_a_batch_of_the_longest_texts_is_full_before_it_takes_all_memory(pipe: Pipe) -> None:
    batch = new_batch()
    taken, put = 0, 30
    while taken % put == 0:
        pipe.put(*[Event(text=b"\1" * 65535)] * put)
        taken += batch.append_from(pipe.reader, put)
        pipe.reader.commit()

    assert batch.append_from(pipe.reader, put) == 0
    assert batch.messages == taken
    assert 1 << 26 < len(payload(batch)) < (1 << 26) + 500_000
    batch.clear()
    assert batch.append_from(pipe.reader, put) == -taken % put


@pytest.mark.parametrize("kind", [Trade, Book, Event])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [(0, {}), (5, {}), (16, {"exchange": "nxt"}), (32, {"exchange": "sor"}), (40, {"exchange": "sor", "late": True})],
)
def test_the_exchange_and_late_are_keys_only_where_they_are_flagged(
    pipe: Pipe, kind: type[Trade | Book | Event], flags: int, expected: dict[str, object]
) -> None:
    batch = new_batch()
    pipe.put(kind(flags=flags))

    batch.append_from(pipe.reader, 1)

    message = json.loads(first_message(batch))
    assert {key: message[key] for key in ("exchange", "late") if key in message} == expected


def test_change_is_a_number_also_when_the_venue_sent_none(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Trade(change_rate=(ABSENT, 0)))

    batch.append_from(pipe.reader, 1)

    assert json.loads(first_message(batch))["change"] == 0


@given(mantissa=st.integers(ABSENT + 1, 2**63 - 1), scale=st.integers(0, 255))
@example(mantissa=0, scale=2)
@example(mantissa=10**18, scale=18)
@example(mantissa=ABSENT + 1, scale=0)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_is_printed_as_the_exact_decimal_without_exponent(pipe: Pipe, mantissa: int, scale: int) -> None:
    batch = new_batch()
    pipe.put(Trade(price=(mantissa, scale)))

    batch.append_from(pipe.reader, 1)
    pipe.reader.commit()

    message = first_message(batch)
    printed = json.loads(message, parse_float=Decimal, parse_int=Decimal)["price"]
    assert printed == Decimal(mantissa).scaleb(-scale)
    assert f'"price":{printed:f},'.encode() in message


@given(symbol=st.binary(max_size=24).map(lambda symbol: symbol.split(b"\0")[0]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_symbol_can_break_the_json_or_the_protocol(pipe: Pipe, symbol: bytes) -> None:
    batch = new_batch()
    pipe.put(Trade(symbol=symbol), Trade(symbol=b"after"))

    batch.append_from(pipe.reader, 2)
    pipe.reader.commit()

    messages = [words[2] for words in publish_commands(batch)]
    assert json.loads(messages[0])["symbol"] == symbol.decode("latin-1")
    assert redis_messages.string(symbol).encode() in messages[0]
    assert json.loads(messages[1])["symbol"] == "after"


@pytest.mark.requirement("E2E-OBS-01")
def test_messages_are_counted_by_minute_of_receipt_market_symbol_and_kind(pipe: Pipe) -> None:
    batch = new_batch()
    minute_ns = 29_393_280 * MINUTE_NS
    pipe.put(
        Trade(recv_ns=minute_ns), Trade(recv_ns=minute_ns + MINUTE_NS - 1), Trade(recv_ns=minute_ns + MINUTE_NS),
        Trade(recv_ns=minute_ns, symbol=b"000660"), Book(recv_ns=minute_ns), Trade(recv_ns=minute_ns, market=2),
        Event(recv_ns=minute_ns, type=1), Event(recv_ns=minute_ns, type=2),
    )  # fmt: skip

    batch.append_from(pipe.reader, 100)

    counted = [words[1:] for words in redis_messages.commands(payload(batch)) if words[0] == b"HINCRBY"]
    assert sorted(counted) == [
        [b"published:minute:29393280", b"kr|000660|trade", b"1"],
        [b"published:minute:29393280", b"kr|005930|event", b"2"],
        [b"published:minute:29393280", b"kr|005930|orderbook", b"1"],
        [b"published:minute:29393280", b"kr|005930|trade", b"2"],
        [b"published:minute:29393280", b"us|005930|trade", b"1"],
        [b"published:minute:29393281", b"kr|005930|trade", b"1"],
    ]


def test_thousands_of_symbols_are_counted_each(pipe: Pipe) -> None:
    batch = new_batch()
    symbols = [f"{n:06}".encode() for n in range(5000)]
    for _ in range(2):
        pipe.put(*[Trade(symbol=symbol) for symbol in symbols for _ in range(2)])
        batch.clear()

        batch.append_from(pipe.reader, 1 << 20)
        pipe.reader.commit()

        counted = {words[2]: words[3] for words in redis_messages.commands(payload(batch)) if words[0] == b"HINCRBY"}
        assert counted == {b"kr|" + symbol + b"|trade": b"2" for symbol in symbols}


def test_records_without_a_message_move_the_cursor_all_the_same(pipe: Pipe) -> None:
    batch = new_batch()
    seqs = pipe.put(Trade(), Quarantine(frame=b"?"), Gap(), Ledger())

    assert batch.append_from(pipe.reader, 100) == 4

    assert batch.messages == 1
    assert batch.records == 4
    assert batch.progress == {RING: (pipe.reader.epoch, seqs[0], seqs[3])}
    assert pack_command("HSET", "published:cursor", "ring-7", f"{pipe.reader.epoch}:{seqs[3]}") in payload(batch)


def test_a_batch_holds_messages_and_cursors_of_several_rings(pipe: Pipe, tmp_path: Path) -> None:
    other_path = tmp_path / "worker-1.ring"
    create_ring(other_path, ring=8, capacity_bytes=1 << 20)
    other_writer, other_reader = RingWriter(other_path), LossyReader(other_path, "publisher")
    batch = new_batch()
    [first] = pipe.put(Trade())
    second = append(other_writer, Trade())
    other_writer.publish()

    batch.append_from(pipe.reader, 10)
    batch.append_from(other_reader, 10)

    assert [json.loads(words[2])["source"] for words in publish_commands(batch)] == [7, 8]
    cursor = ["ring-7", f"{pipe.reader.epoch}:{first}", "ring-8", f"{other_reader.epoch}:{second}"]
    assert pack_command("HSET", "published:cursor", *cursor) in payload(batch)


def test_a_payload_can_be_asked_for_again_and_added_to(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Trade(), Trade())
    batch.append_from(pipe.reader, 1)

    first = payload(batch)

    assert payload(batch) == first
    batch.append_from(pipe.reader, 1)
    assert len(publish_commands(batch)) == 2
    assert payload(batch).count(b"EXEC") == 1


def test_a_payload_that_is_being_read_holds_the_batch_still(pipe: Pipe) -> None:
    batch = new_batch()
    pipe.put(Trade())
    view = batch.payload()

    with pytest.raises(BufferError):
        batch.append_from(pipe.reader, 1)
    with pytest.raises(BufferError):
        batch.clear()

    view.release()
    assert batch.append_from(pipe.reader, 1) == 1


def test_the_age_of_every_message_is_counted(pipe: Pipe, tmp_path: Path) -> None:
    create_counters_file(tmp_path / "counters", 1)
    counters = CountersBlock(tmp_path / "counters", 0)
    counters.take("publisher")
    now_ns = 1_763_596_802_000_000_000
    batch = new_batch()
    pipe.put(Trade(recv_ns=now_ns - 3000), Gap(recv_ns=now_ns), Book(recv_ns=now_ns - 9000))
    batch.append_from(pipe.reader, 100)

    batch.observe_ages(counters, 0, now_ns)

    snapshot = counters.snapshot()
    assert snapshot is not None
    assert [us for us, n in enumerate(snapshot["histograms"][0]) if n] == [3, 9]


# ---- replies ----------------------------------------------------------------------------------------------

GOOD = b"+OK\r\n" + 3 * b"+QUEUED\r\n" + b"*3\r\n:1\r\n:20\r\n:0\r\n" + b"+OK\r\n"


@given(cuts=st.lists(st.integers(0, len(GOOD)), max_size=6))
def test_replies_are_understood_however_the_network_cuts_them(cuts: list[int]) -> None:
    replies = TransactionReplies(3)

    edges = [0, *sorted(cuts), len(GOOD)]
    for start, end in itertools.pairwise(edges):
        assert not replies.complete or start == end
        assert replies.feed(GOOD[start:end]) == 0

    assert replies.complete
    assert (replies.queued, replies.executed, replies.aborted, replies.errors) == (3, True, False, 0)


@pytest.mark.parametrize(
    ("text", "executed", "aborted", "error"),
    [
        (  # a command was refused, so EXEC ran nothing
            b"+OK\r\n+QUEUED\r\n-OOM command not allowed when used memory > 'maxmemory'.\r\n+QUEUED\r\n"
            b"-EXECABORT Transaction discarded because of previous errors.\r\n+OK\r\n",
            False, False, b"OOM command not allowed when used memory > 'maxmemory'.",
        ),
        (  # the cursor was moved by somebody else
            b"+OK\r\n" + 3 * b"+QUEUED\r\n" + b"*-1\r\n+OK\r\n", False, True, b"",
        ),
        (  # a command failed while EXEC ran: the others have happened
            b"+OK\r\n" + 3 * b"+QUEUED\r\n" + b"*3\r\n:1\r\n-WRONGTYPE Operation against a key\r\n:0\r\n+OK\r\n",
            True, False, b"WRONGTYPE Operation against a key",
        ),
        (6 * b"-NOPERM no\r\n", False, False, b"NOPERM no"),
    ],
)  # fmt: skip
def test_an_error_is_never_ignored(text: bytes, executed: bool, aborted: bool, error: bytes) -> None:
    for size in (1, 7, len(text)):
        replies = TransactionReplies(3)

        for start in range(0, len(text), size):
            replies.feed(text[start : start + size])

        assert replies.complete
        assert (replies.executed, replies.aborted, replies.first_error) == (executed, aborted, error)
        assert (replies.errors > 0) == bool(error)


def test_an_error_text_of_any_length_is_cut_and_not_overrun() -> None:
    replies = TransactionReplies(0)

    for _ in range(100):
        replies.feed(b"-" + b"x" * 999)
    replies.feed(b"\r\n+OK\r\n+OK\r\n")

    assert replies.complete
    assert 400 < len(replies.first_error) < 600


def test_bytes_behind_the_last_reply_are_reported() -> None:
    assert TransactionReplies(3).feed(GOOD + b"+MORE\r\n") == len(b"+MORE\r\n")


@pytest.mark.parametrize("text", [b"$5\r\nhello\r\n", b"\r\n", b"*x\r\n"])
def test_a_reply_that_no_command_gives_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - three messages
        TransactionReplies(3).feed(text)
