"""`sise quarantine`: what could not be stored is listed, shown, and stored once when it can be."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from daemon.config import Account, Config, Database, Redis
from daemon.errors import ConfigError
from daemon.sinks.quarantine import EntryId, find_entry, list_entries, parse_id
from daemon.sinks.quarantine_replay import Outcome, Replay, Result, replay_source
from daemon.sinks.reparse import ENCRYPTED
from daemon.sinks.replay_report import replay_and_report
from daemon.sinks.verify import Report, verify
from native_pipeline.records import QUARANTINE_REASONS
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Book, Event, Record, Trade, append

REPOSITORY = Path(__file__).parents[2]
FRAMES = REPOSITORY / "tests" / "frames" / "kis" / "data"
RECEIVED = datetime(2026, 11, 20, 1, 30, 15, 654321, tzinfo=UTC)  # 10:30:15 in Korea
RECEIVED_NS = int(RECEIVED.timestamp()) * 10**9
SEQ = 1_795_000_000_000_000
BAD_WIDTH = "number of fields does not fit the record count and the TR"
NO_RECORD = b"0|H0STCNT0|001|005930^nonsense"
pytestmark = pytest.mark.requirement("SCH-01", "DLP-01")


def frame(name: str) -> bytes:
    return (FRAMES / f"{name}.txt").read_bytes().rstrip(b"\n")


def wide_expected_index() -> bytes:
    """A record of H0UPANC0 with the fields of H0UPCNT0: another reading of the venue's documents, see the layouts."""
    fields = frame("H0UPCNT0_single").split(b"|")[3]
    return b"0|H0UPANC0|001|" + fields


class Ward:
    """A database with entries in quarantine."""

    def __init__(self, dsn: str, redis_url: str, directory: Path) -> None:
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True)
        path = directory / "sise.toml"
        path.write_text(f'[database]\ndsn = "{dsn}"\n[redis]\nurl = "{redis_url}"\n')
        self.config_path = str(path)
        self.config = Config(data_dir="/nonexistent", database=Database(dsn=dsn), redis=Redis(url=redis_url))

    def put(
        self,
        seq: int,
        content: bytes,
        *,
        reason: str = BAD_WIDTH,
        recv_time: datetime = RECEIVED,
        original_bytes: int | None = None,
        source: int = 0,
        venue: str = "kis",
    ) -> EntryId:
        self.connection.execute(
            "INSERT INTO quarantine (recv_time, venue, reason, detail, frame, original_bytes, source, seq)"
            " VALUES (%s, %s, %s, 47, %s, %s, %s, %s)",
            [recv_time, venue, reason, content, original_bytes or len(content), source, SEQ + seq],
        )
        return EntryId(source, SEQ + seq)

    def replay(
        self, ids: list[EntryId] | None = None, *, is_dry_run: bool = False, config: Config | None = None
    ) -> list[Result]:
        with Replay(config or self.config, self.connection, is_dry_run=is_dry_run) as replay:
            return list(replay.run(ids))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return self.connection.execute(query.encode()).fetchall()

    def verify(self) -> Report:
        return verify(self.config, sleep=lambda _seconds: None)


@pytest.fixture
def ward(postgres_dsn: str, redis_url: str, tmp_path: Path) -> Iterator[Ward]:
    ward = Ward(postgres_dsn, redis_url, tmp_path)
    with contextlib.closing(ward.connection):
        yield ward


def test_a_frame_that_can_be_parsed_now_is_stored_with_its_receive_time_and_verify_still_agrees(ward: Ward) -> None:
    entry = ward.put(5, frame("H0STCNT0_single"))

    assert ward.replay([entry]) == [Result(entry, Outcome.STORED, 1)]

    columns = "symbol, price, cum_volume, time, recv_time, source, seq, market, venue"
    assert ward.rows(f"SELECT {columns} FROM market_ticks") == [
        (
            "005930",
            71200.0,
            7064640.0,
            datetime(2026, 11, 20, 1, 30, 15, tzinfo=UTC),
            RECEIVED,
            -1,
            SEQ + 5,
            "kr",
            "kis",
        )
    ]
    assert ward.rows("SELECT replayed_rows, replayed_at IS NULL FROM quarantine") == [(1, False)]
    report = ward.verify()
    assert report.is_complete, report.as_text()
    assert (report.received, report.replayed, report.stored, report.quarantined, report.open) == (0, 1, 1, 0, 0)


def test_every_row_of_a_frame_has_a_number_of_its_own(ward: Ward) -> None:
    first = ward.put(1, frame("H0STCNT0_multi3_same_second"), source=3)
    second = ward.put(2, frame("H0STCNT0_multi2_two_symbols").replace(b"7064640", b"7069999"), source=3)

    assert ward.replay() == [Result(first, Outcome.STORED, 3), Result(second, Outcome.STORED, 2)]

    assert ward.rows("SELECT source, seq FROM market_ticks ORDER BY seq, source DESC") == [
        (-4, SEQ + 1), (-68, SEQ + 1), (-132, SEQ + 1), (-4, SEQ + 2), (-68, SEQ + 2)
    ]  # fmt: skip
    report = ward.verify()
    assert report.is_complete, report.as_text()
    assert (report.replayed, report.stored) == (5, 5)


def test_the_day_of_a_frame_that_carries_none_is_that_of_its_receipt(ward: Ward) -> None:
    for day in (1, 9):
        ward.put(day, frame("H0STASP0_single"), recv_time=RECEIVED + timedelta(days=day))

    ward.replay()

    assert [str(time)[:10] for (time,) in ward.rows("SELECT time FROM market_orderbook ORDER BY seq")] == [
        "2026-11-21", "2026-11-29",
    ]  # fmt: skip


def test_what_is_replayed_twice_is_stored_once(ward: Ward) -> None:
    entry = ward.put(5, frame("H0STCNT0_single"))
    ward.replay()

    assert ward.replay() == []
    with pytest.raises(ConfigError, match=f"{entry}: no such entry in quarantine, or replayed already"):
        ward.replay([entry])
    assert ward.rows("SELECT count(*) FROM market_ticks") == [(1,)]


def test_two_people_at_once_store_each_frame_once(ward: Ward) -> None:
    entries = [
        ward.put(number, frame("H0STCNT0_single").replace(b"7064640", b"%d" % (7_000_000 + 100 * number)))
        for number in range(40)
    ]
    with psycopg.connect(ward.dsn) as other:  # somebody else is in the middle of these
        other.execute("SELECT FROM quarantine WHERE seq < %s FOR UPDATE", [SEQ + 15])
        outcomes = [result.outcome for result in ward.replay(entries)]
    assert outcomes == [Outcome.TAKEN] * 15 + [Outcome.STORED] * 25

    words = [sys.executable, "-m", "daemon.cli", "quarantine", "replay", "--all"]
    two = [
        subprocess.Popen([*words, "-c", ward.config_path], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in two]

    assert ward.rows("SELECT count(*), count(DISTINCT (source, seq)) FROM market_ticks") == [(40, 40)]
    assert ward.rows("SELECT count(*), sum(replayed_rows) FROM quarantine WHERE replayed_at IS NOT NULL") == [(40, 40)]
    assert sum(int(text.splitlines()[-1].split()[0]) for text in said) == 15, said


def test_frames_that_still_fail_stay_as_they_are_and_each_says_why(ward: Ward) -> None:
    broken = ward.put(1, NO_RECORD)
    cut = ward.put(2, frame("H0STCNT0_single")[:100], original_bytes=400)
    encrypted = ward.put(3, b"1|H0STCNI0|001|c2VjcmV0", reason=ENCRYPTED)
    control = ward.put(4, b'{"header":{"tr_id":"PINGPONG"}}')
    stranger = ward.put(5, b"x", venue="unheard of")
    good = ward.put(6, frame("H0STCNT0_single"))

    found = {result.id: result for result in ward.replay()}

    assert found[good] == Result(good, Outcome.STORED, 1)
    assert found[broken] == Result(broken, Outcome.FAILS, reason=BAD_WIDTH)
    assert found[cut].outcome is Outcome.CUT
    assert found[encrypted].outcome is Outcome.ENCRYPTED
    assert (found[control].outcome, found[control].reason) == (Outcome.FAILS, "a control frame: it holds no data")
    assert found[stranger].outcome is Outcome.FAILS
    assert ward.rows("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL") == [(5,)]
    assert ward.verify().quarantined == 5


def test_of_a_frame_that_is_good_in_part_the_rest_stays_in_quarantine(ward: Ward) -> None:
    content = frame("H0STCNT0_multi2_two_symbols").replace(b"^182500^", b"^-^")
    entry = ward.put(1, content)

    assert ward.replay() == [Result(entry, Outcome.STORED, 1)]

    assert ward.rows("SELECT symbol FROM market_ticks") == [("005930",)]
    (rest,) = list_entries(ward.connection)
    assert (rest.id, rest.reason) == (EntryId(-65, SEQ + 1), "price is missing, not a decimal, or not positive")
    assert rest.frame.startswith(b"0|H0STCNT0|001|000660^")
    assert [result.outcome for result in ward.replay([rest.id])] == [Outcome.FAILS]
    assert ward.verify().is_complete


def test_a_layout_that_the_account_names_now_makes_a_frame_readable_once(ward: Ward) -> None:
    entry = ward.put(1, wide_expected_index())
    assert [result.outcome for result in ward.replay()] == [Outcome.FAILS]

    account = Account(name="main", venue="kis", layouts=("H0UPANC0:wide",))
    config = Config(
        data_dir="/nonexistent", database=ward.config.database, redis=ward.config.redis, accounts=(account,)
    )

    assert ward.replay(config=config) == [Result(entry, Outcome.STORED, 1)]
    assert ward.replay(config=config) == []
    assert ward.rows("SELECT type, source, seq FROM market_events") == [("expected", -1, SEQ + 1)]
    assert ward.verify().is_complete


def test_accounts_that_read_frames_differently_must_be_chosen_between(ward: Ward) -> None:
    ward.put(1, wide_expected_index())
    accounts = (Account(name="a", venue="kis", layouts=("H0UPANC0:wide",)), Account(name="b", venue="kis"))
    config = Config(data_dir="/nonexistent", database=ward.config.database, accounts=accounts)

    with pytest.raises(ConfigError, match="choose one by --account"):
        ward.replay(config=config)
    said: list[str] = []
    assert replay_and_report(config, [], said.append, is_all=True, account="a")
    assert said == ["1 stored", "1 rows stored"]


@pytest.mark.requirement("DLP-02")
def test_a_trade_that_the_other_session_brought_is_not_stored_again(ward: Ward) -> None:
    ward.put(1, frame("H0STCNT0_single"))
    ward.put(2, frame("H0STCNT0_single"), source=1, recv_time=RECEIVED + timedelta(milliseconds=3))
    assert [result.outcome for result in ward.replay()] == [Outcome.STORED, Outcome.KNOWN]

    late = ward.put(3, frame("H0STCNT0_single"), source=2)

    assert ward.replay() == [Result(late, Outcome.KNOWN)]
    assert ward.rows("SELECT count(*) FROM market_ticks") == [(1,)]
    assert ward.rows("SELECT replayed_rows FROM quarantine ORDER BY seq") == [(1,), (0,), (0,)]
    assert ward.verify().is_complete


@pytest.mark.requirement("DLP-02")
@pytest.mark.parametrize("name", ["H0STASP0_single", "H0UPCNT0_single", "H0STCNT0_multi3_same_second"])
def test_what_came_out_of_a_capture_already_is_not_stored_again(ward: Ward, name: str) -> None:
    ward.put(1, frame(name))
    (first,) = ward.replay()
    ward.connection.execute("UPDATE market_ticks SET source = -32768, seq = seq * 2 - source")
    ward.connection.execute("UPDATE market_orderbook SET source = -32768, seq = 1")
    ward.connection.execute("UPDATE market_events SET source = -32768, seq = 1")
    ward.connection.execute("UPDATE quarantine SET replayed_at = NULL")

    (second,) = ward.replay()

    assert (first.outcome, second.outcome, second.rows) == (Outcome.STORED, Outcome.KNOWN, 0)
    report = ward.verify()
    assert report.is_complete, report.as_text()
    assert report.open == 0


def test_a_dry_run_says_the_same_and_changes_nothing(ward: Ward) -> None:
    entry = ward.put(1, frame("H0STCNT0_single"))

    assert ward.replay(is_dry_run=True) == ward.replay(is_dry_run=True) == [Result(entry, Outcome.STORED, 1)]

    assert ward.rows("SELECT count(*) FROM market_ticks") == [(0,)]
    assert ward.rows("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL") == [(1,)]


@pytest.mark.requirement("F51")
def test_a_frame_that_the_database_refuses_stays_and_the_others_of_its_batch_are_stored(ward: Ward) -> None:
    ward.connection.execute("ALTER TABLE market_ticks ADD CHECK (price <> 71300)")
    good = [ward.put(1, frame("H0STCNT0_single")), ward.put(3, frame("H0STCNT0_down_limit"))]
    bad = ward.put(2, frame("H0STCNT0_after_market"))
    twin = ward.put(4, frame("H0STCNT0_after_market"))  # must not pass as stored because the parser has seen it

    found = {result.id: result.outcome for result in ward.replay()}

    assert found == {**dict.fromkeys(good, Outcome.STORED), bad: Outcome.REFUSED, twin: Outcome.REFUSED}
    assert ward.rows("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL") == [(2,)]
    report = ward.verify()
    assert report.is_complete, report.as_text()


@pytest.mark.requirement("F51", "E2E-OBS-01")
def test_a_row_that_the_database_refused_is_counted_and_replayed_once_it_takes_it(ward: Ward, tmp_path: Path) -> None:
    seq, record = raw_record(tmp_path, Trade(recv_ns=int(RECEIVED.timestamp()) * 10**9, price=(71300, 0)))
    ward.connection.execute(
        "INSERT INTO ingest_ledger VALUES (%s, 'kr', 'kis', '005930', 'trade', 1, %s, 0, %s)",
        [RECEIVED.replace(second=0, microsecond=0), seq, seq + 1],
    )
    ward.connection.execute(
        "INSERT INTO quarantine (recv_time, venue, reason, detail, frame, original_bytes, source, seq, kind, market,"
        " symbol) VALUES (%s, 'kis', 'refused by the database: 23514 no', 0, %s, %s, 0, %s, 'trade', 'kr', '005930')",
        [RECEIVED, record, len(record), seq],
    )
    ward.connection.execute("ALTER TABLE market_ticks ADD CONSTRAINT test CHECK (price <> 71300)")
    report = ward.verify()
    assert (report.received, report.stored, report.refused, report.lost, report.quarantined) == (1, 0, 1, 0, 0)
    assert report.is_complete, report.as_text()
    assert [result.outcome for result in ward.replay()] == [Outcome.REFUSED]

    ward.connection.execute("ALTER TABLE market_ticks DROP CONSTRAINT test")

    assert ward.replay() == [Result(EntryId(0, seq), Outcome.STORED, 1)]
    assert ward.replay() == []
    assert ward.rows("SELECT source, seq, price FROM market_ticks") == [(0, seq, 71300.0)]
    report = ward.verify()
    assert (report.received, report.stored, report.refused, report.is_complete) == (1, 1, 0, True)


@pytest.mark.requirement("DLP-02")
@pytest.mark.parametrize("record", [Trade(recv_ns=RECEIVED_NS), Book(recv_ns=RECEIVED_NS), Event(recv_ns=RECEIVED_NS)])
def test_a_refused_row_that_came_out_of_a_capture_meanwhile_is_not_stored_again(
    ward: Ward, tmp_path: Path, record: Record
) -> None:
    for seq_of_twin in (0, 1):  # what comes twice in the quarantine has to be there twice
        refuse(ward, tmp_path / str(seq_of_twin), record, source=seq_of_twin)
    assert [result.outcome for result in ward.replay()] == [Outcome.STORED] * 2
    everything = " UNION ALL ".join(
        f"SELECT source, seq FROM {table}" for table in ("market_ticks", "market_orderbook", "market_events")
    )
    for table in ("market_ticks", "market_orderbook", "market_events"):
        ward.connection.execute(f"UPDATE {table} SET source = -32768, seq = source + 1".encode())
    ward.connection.execute("UPDATE quarantine SET replayed_at = NULL")

    assert [result.outcome for result in ward.replay()] == [Outcome.KNOWN] * 2

    assert ward.rows(f"SELECT count(*) FROM ({everything}) AS rows") == [(2,)]


@pytest.mark.requirement("DLP-01", "F51")
@pytest.mark.parametrize("record", [Trade(recv_ns=RECEIVED_NS), Book(recv_ns=RECEIVED_NS), Event(recv_ns=RECEIVED_NS)])
def test_a_refused_row_that_is_equal_to_one_of_another_ring_is_another(
    ward: Ward, tmp_path: Path, record: Record
) -> None:
    for source in (0, 1):
        refuse(ward, tmp_path / str(source), record, source=source)
        (result,) = ward.replay()
        assert (result.outcome, result.rows) == (Outcome.STORED, 1)


@pytest.mark.requirement("DLP-01", "DLP-03", "F51")
@pytest.mark.parametrize("record", [Trade(recv_ns=RECEIVED_NS), Book(recv_ns=RECEIVED_NS), Event(recv_ns=RECEIVED_NS)])
def test_a_refused_row_that_its_table_has_already_is_not_stored_again(
    ward: Ward, tmp_path: Path, record: Record
) -> None:
    refuse(ward, tmp_path, record, source=0)
    assert [result.outcome for result in ward.replay()] == [Outcome.STORED]
    ward.connection.execute("UPDATE quarantine SET replayed_at = NULL")  # as if it had been there when it was refused

    (result,) = ward.replay()

    assert (result.outcome, result.rows) == (Outcome.KNOWN, 0)


def refuse(ward: Ward, tmp_path: Path, record: Record, *, source: int) -> None:
    """Put *record* of ring *source* into quarantine, as a row that the database refused."""
    seq, raw = raw_record(tmp_path, record)
    ward.connection.execute(
        "INSERT INTO quarantine (recv_time, venue, reason, detail, frame, original_bytes, source, seq, kind,"
        " market, symbol) VALUES (%s, 'kis', 'refused by the database: 23514 no', 0, %s, %s, %s, %s, 'trade',"
        " 'kr', '005930')",
        [RECEIVED, raw, len(raw), source, seq],
    )


def raw_record(tmp_path: Path, record: Record) -> tuple[int, bytes]:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "worker-0.ring"
    create_ring(path, ring=0, capacity_bytes=1 << 20, consumers=(("test", GATING),))
    ring = RingWriter(path)
    seq = append(ring, record)
    ring.publish()
    reader = GatingReader(path, "test")
    reader.fetch_bytes()
    raw = reader.next_bytes()
    assert raw is not None
    reader.close()
    ring.close()
    return int(ring.first_seq if seq is None else seq), raw


@pytest.mark.requirement("DLP-02")
@pytest.mark.parametrize(("point", "stored"), [("quarantine.before_commit", 0), ("quarantine.after_commit", 1)])
def test_a_replay_that_is_killed_has_stored_all_or_nothing_of_its_batch(
    ward: Ward, tmp_path: Path, point: str, stored: int
) -> None:
    ward.put(1, frame("H0STCNT0_single"))
    (tmp_path / point).write_text("kill")
    words = [sys.executable, "-m", "daemon.cli", "quarantine", "replay", "--all", "-c", ward.config_path]

    died = subprocess.run(words, cwd=REPOSITORY, env={**os.environ, "SISE_FAILPOINTS": str(tmp_path)}, timeout=60)

    assert died.returncode == -signal.SIGKILL
    assert ward.rows("SELECT count(*) FROM market_ticks") == [(stored,)]
    again = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, f"{1 - stored} rows stored")
    assert ward.rows("SELECT count(*) FROM market_ticks") == [(1,)]
    assert ward.verify().is_complete


def test_list_and_show_on_the_command_line(ward: Ward) -> None:
    old = ward.put(1, NO_RECORD, recv_time=RECEIVED - timedelta(days=1))
    new = ward.put(2, b"\xff\x00" + b"x" * 30, reason="unexpected binary frame", venue="kiwoom")
    done = ward.put(3, frame("H0STCNT0_single"))
    ward.replay([done])
    path = ward.config_path

    def sise(*words: str) -> list[str]:
        command = [sys.executable, "-m", "daemon.cli", "quarantine", *words, "-c", path]
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
        ).stdout.splitlines()

    assert [line.split()[0] for line in sise("list")] == [str(new), str(old)]
    assert [line.split()[0] for line in sise("list", "--venue", "kis", "--replayed")] == [str(done), str(old)]
    assert [json.loads(line)["text"] for line in sise("list", "--reason", "FIELDS", "--json")] == [NO_RECORD.decode()]
    assert [line.split()[0] for line in sise("list", "--since", RECEIVED.isoformat(), "--limit", "1")] == [str(new)]
    assert sise("show", str(new))[-2:] == [
        "00000000  ff 00 78 78 78 78 78 78 78 78 78 78 78 78 78 78  ..xxxxxxxxxxxxxx",
        "00000010  78 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78  xxxxxxxxxxxxxxxx",
    ]
    assert sise("show", str(old))[-1] == NO_RECORD.decode()
    missing = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "quarantine", "show", "0-1", "-c", path],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (missing.returncode, missing.stderr) == (2, "sise: 0-1: there is no such entry in quarantine\n")


@pytest.mark.parametrize("text", ["", "0", "0-", "-5", "99999-1", "0-x", "0-99999999999999999999"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no ID of an entry"):
        parse_id(text)


def test_an_id_is_read_as_it_is_printed(ward: Ward) -> None:
    for entry in (ward.put(1, b"x"), ward.put(2, b"x", source=-65)):
        assert find_entry(ward.connection, parse_id(str(entry))).id == entry


def test_no_two_rows_ever_share_a_source() -> None:
    numbered = [replay_source(ring, position) for ring in range(64) for position in range(511)]

    assert (len(set(numbered)), max(numbered), min(numbered)) == (64 * 511, -1, -(1 << 15) + 64)
    with pytest.raises(ValueError, match="cannot be numbered"):
        replay_source(0, 511)
    with pytest.raises(ValueError, match="cannot be numbered"):
        replay_source(-1, 1)


def test_the_reasons_that_replay_knows_are_those_of_the_parsers() -> None:
    assert ENCRYPTED in QUARANTINE_REASONS
    assert BAD_WIDTH in QUARANTINE_REASONS
