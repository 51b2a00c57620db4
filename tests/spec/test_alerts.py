"""Alerts: what is said, what is counted instead, what waits, and what is never lost without a number."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.alerts import (
    LEVELS,
    MAX_DATAGRAM_BYTES,
    QUEUE_ALERTS,
    Alert,
    AlertQueue,
    DatagramAlerts,
    Level,
    NullAlerts,
    RecordingAlerts,
    SocketAddress,
    decode,
    encode,
    make_alert,
)
from daemon.watching.alarms import Alarms, Condition, conditions
from daemon.watching.alert_desk import MAX_KINDS, AlertDesk
from daemon.watching.markets import MarketReading, Silences
from daemon.watching.readings import ProcessReading
from tests.spec.made_readings import process, reading, ring

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


class Counters:
    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def increment(self, name: str, n: int = 1) -> None:
        self.values[name] = self.values.get(name, 0) + n


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    def critical(self, event: str, **fields: object) -> None:
        self.lines.append(("critical", event, fields))


def alert(level: Level = "WARNING", code: str = "c", message: str = "m", subject: str = "") -> Alert:
    return make_alert(level, code, message, subject=subject, source="worker-0", at=NOW)


# ---- the sender ---------------------------------------------------------------------------------------------


class Monitor:
    """A socket that can be there or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket: socket.socket | None = None

    def start(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with SocketAddress(self.path) as address:
            self.socket.bind(address)

    def stop(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.path.unlink()
            self.socket = None

    def heard(self) -> list[Alert]:
        found: list[Alert] = []
        assert self.socket is not None
        while True:
            try:
                found.append(decode(self.socket.recv(MAX_DATAGRAM_BYTES)))
            except BlockingIOError:
                return found


@pytest.fixture(params=["short", "long"])
def monitor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Monitor]:
    """Also below a directory whose name is longer than a socket address may be."""
    directory = tmp_path / ("d" * 200 if request.param == "long" else "d")
    directory.mkdir()
    monitor = Monitor(directory / "alerts.sock")
    yield monitor
    monitor.stop()


@pytest.fixture
def alerts(monitor: Monitor) -> Iterator[DatagramAlerts]:
    alerts = DatagramAlerts(monitor.path, role="worker-0", logger=Log(), counters=Counters(), now=lambda: NOW)
    yield alerts
    alerts.close()


def test_an_alert_reaches_the_monitor_and_the_log(alerts: DatagramAlerts, monitor: Monitor) -> None:
    monitor.start()

    alerts.send("CRITICAL", "subscription_failed", "unanswered three times", subject="main/005930")

    assert [msgspec.to_builtins(one) for one in monitor.heard()] == [
        {
            "timestamp": "2026-11-23T09:00:00.000+00:00",
            "level": "CRITICAL",
            "code": "subscription_failed",
            "message": "unanswered three times",
            "subject": "main/005930",
            "source": "worker-0",
        }
    ]
    fields = {"code": "subscription_failed", "message": "unanswered three times", "subject": "main/005930"}
    assert alerts._log.lines == [("critical", "alert", fields)]
    assert alerts._counters.values == {"alerts_raised": 1}  # type: ignore[attr-defined]


@pytest.mark.requirement("F66")
def test_alerts_wait_in_order_for_a_monitor_that_is_away(alerts: DatagramAlerts, monitor: Monitor) -> None:
    for number in range(3):
        alerts.send("WARNING", f"code_{number}", "m")
    alerts.flush()
    assert alerts.waiting == 3

    monitor.start()
    alerts.flush()

    assert [one.code for one in monitor.heard()] == ["code_0", "code_1", "code_2"]
    assert alerts.waiting == 0


@pytest.mark.requirement("F66")
def test_a_monitor_that_does_not_read_blocks_nobody_and_gets_everything_later(
    alerts: DatagramAlerts, monitor: Monitor
) -> None:
    monitor.start()
    for number in range(100):  # the kernel keeps a handful of datagrams
        alerts.send("WARNING", f"code_{number}", "m")
    assert alerts.waiting > 0

    heard = monitor.heard()
    while alerts.waiting:
        alerts.flush()
        heard += monitor.heard()

    assert [one.code for one in heard] == [f"code_{number}" for number in range(100)]


@pytest.mark.requirement("F66")
def test_a_full_queue_gives_up_the_least_important_and_says_how_many(alerts: DatagramAlerts, monitor: Monitor) -> None:
    for number in range(QUEUE_ALERTS):
        alerts.send("INFO" if number < 5 else "WARNING", f"code_{number}", "m")
    for _ in range(7):
        alerts.send("CRITICAL", "important", "m")
    alerts.flush()
    monitor.start()

    heard: list[Alert] = []
    while alerts.waiting:
        alerts.flush()
        heard += monitor.heard()

    assert alerts._counters.values["alerts_lost"] == 7  # type: ignore[attr-defined]
    assert [line for line in alerts._log.lines if line[1] == "alerts_lost"] == [
        ("warning", "alerts_lost", {"alerts": 7, "reason": "the monitor is away"})
    ]
    assert [one.code for one in heard] == ["important"] * 7 + [f"code_{n}" for n in range(7, QUEUE_ALERTS)]


def test_a_monitor_that_comes_back_is_found_again(alerts: DatagramAlerts, monitor: Monitor) -> None:
    monitor.start()
    alerts.send("INFO", "one", "m")
    monitor.stop()
    alerts.send("INFO", "two", "m")

    monitor.start()
    alerts.flush()

    assert [one.code for one in monitor.heard()] == ["two"]


def test_sending_leaves_no_file_open(alerts: DatagramAlerts, monitor: Monitor) -> None:
    alerts.send("INFO", "one", "m")
    before = len(list(Path("/proc/self/fd").iterdir()))
    monitor.start()
    for _ in range(50):
        alerts.send("INFO", "one", "m")

    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1  # the monitor's


@given(st.text(), st.text(max_size=500), st.text(max_size=2000))
def test_every_alert_fits_a_datagram_and_comes_out_as_it_went_in(code: str, subject: str, message: str) -> None:
    made = make_alert("INFO", code, message, subject=subject, source="worker-63", at=NOW)

    assert len(encode(made)) <= MAX_DATAGRAM_BYTES
    assert decode(encode(made)) == made


@pytest.mark.parametrize("character", ["\x00", "가", "😀", '"', "\ud800"])
def test_the_widest_characters_fit_too(character: str) -> None:
    long = character * 5000

    assert len(encode(make_alert("INFO", long, long, subject=long, source="worker-63", at=NOW))) <= MAX_DATAGRAM_BYTES


def test_those_who_only_pretend() -> None:
    recording = RecordingAlerts()
    recording.send("INFO", "c", "m", subject="s")
    NullAlerts().send("INFO", "c", "m")

    assert recording.sent == [("INFO", "c", "m", "s")]
    assert recording.codes() == ["c"]


@given(st.lists(st.sampled_from(LEVELS)), st.integers(1, 8))
def test_a_queue_never_gives_up_a_heavier_alert_for_a_lighter_one(levels: list[Level], limit: int) -> None:
    queue, dropped = AlertQueue(limit), []
    for number, level in enumerate(levels):
        gone = queue.put(alert(level, code=str(number)))
        dropped += [gone] if gone else []
        assert len(queue) <= limit

    kept = list(queue)
    assert sorted([*kept, *dropped], key=lambda one: int(one.code)) == [
        alert(level, code=str(number)) for number, level in enumerate(levels)
    ]
    weights = [LEVELS.index(one.level) for one in kept]
    assert weights == sorted(weights, reverse=True)


# ---- the desk -----------------------------------------------------------------------------------------------


class Office:
    """A desk, and a publisher that takes what is due."""

    def __init__(self, *, repeat_s: float = 300, per_minute: int = 60, queue: int = 100) -> None:
        self.desk = AlertDesk(repeat_s=repeat_s, per_minute=per_minute, queue=queue)

    def published(self, now_s: float) -> list[tuple[str, str]]:
        self.desk.tick(now_s)
        found: list[tuple[str, str]] = []
        while (one := self.desk.next_due(now_s)) is not None:
            self.desk.on_published(one)
            found.append((one.level, one.message))
        return found


@pytest.mark.requirement("F66")
def test_repetitions_are_counted_and_summed_up_when_their_time_is_over() -> None:
    office = Office()
    for now_s in range(100):
        office.desk.accept(alert(message=f"attempt {now_s}"), now_s)

    assert office.published(100) == [("WARNING", "attempt 0")]
    assert office.published(299) == []
    assert office.published(300) == [("WARNING", "attempt 99 (repeated 99 times more within 300 s)")]
    assert office.desk.suppressed == 99


def test_what_goes_on_is_summed_up_again_and_again_and_then_forgotten() -> None:
    office = Office(repeat_s=10)
    messages = []
    for now_s in range(60):
        if now_s < 25:
            office.desk.accept(alert(), now_s)
        messages += [message for _, message in office.published(now_s)]
    office.desk.accept(alert(), 60)

    assert messages == [
        "m",
        "m (repeated 9 times more within 10 s)",
        "m (repeated 10 times more within 10 s)",
        "m (repeated 5 times more within 10 s)",
    ]
    assert office.published(60) == [("WARNING", "m")]


def test_a_single_repetition_is_said_in_words() -> None:
    office = Office()
    office.desk.accept(alert(), 0)
    office.desk.accept(alert(), 1)

    assert office.published(300)[-1] == ("WARNING", "m (repeated once more within 300 s)")


def test_another_code_or_subject_is_no_repetition() -> None:
    office = Office()
    for code, subject in (("a", ""), ("b", ""), ("a", "x")):
        office.desk.accept(alert(code=code, subject=subject), 0)

    assert len(office.published(0)) == 3


def test_the_same_with_more_weight_is_said_at_once() -> None:
    office = Office()
    for level in ("INFO", "WARNING", "WARNING", "CRITICAL", "WARNING"):
        office.desk.accept(alert(level), 0)

    assert [level for level, _ in office.published(0)] == ["CRITICAL", "WARNING", "WARNING", "INFO"]
    assert office.published(300) == [("WARNING", "m (repeated once more within 300 s)")]


def test_a_flood_goes_out_at_the_agreed_pace_the_heaviest_first() -> None:
    office = Office(per_minute=60, queue=1000)
    for number in range(100):
        office.desk.accept(alert(code=str(number), message="light"), 0)
    office.desk.accept(alert("CRITICAL", message="heavy"), 0)

    first = office.published(0)
    assert len(first) == 60
    assert first[0] == ("CRITICAL", "heavy")
    assert len(office.published(10)) == 10
    assert len(office.published(100)) == 31


@pytest.mark.requirement("F66")
def test_what_waits_is_bounded_and_what_is_lost_is_counted() -> None:
    office = Office(queue=10)
    for number in range(25):
        office.desk.accept(alert(code=str(number), message=str(number)), 0)

    assert office.desk.numbers() == {"waiting": 10, "suppressed": 0, "lost": 15}
    assert [message for _, message in office.published(0)] == [str(number) for number in range(15, 25)]


def test_an_alert_that_gave_way_while_it_was_on_the_line_takes_no_other_with_it() -> None:
    desk = AlertDesk(repeat_s=300, per_minute=60, queue=1)
    desk.accept(alert(code="old"), 0)
    on_the_line = desk.next_due(0)
    assert on_the_line is not None
    desk.accept(alert(code="new"), 0)

    desk.on_published(on_the_line)

    following = desk.next_due(0)
    assert following is not None
    assert following.code == "new"


def test_a_flood_of_subjects_is_forgotten_early_and_none_of_it_unsaid() -> None:
    desk = AlertDesk(repeat_s=300, per_minute=60, queue=10 * MAX_KINDS)
    desk.accept(alert(subject="first"), 0)
    desk.accept(alert(subject="first"), 0)
    for number in range(MAX_KINDS):
        desk.accept(alert(subject=str(number)), 0)

    assert len(desk._windows) == MAX_KINDS
    assert desk.waiting == MAX_KINDS + 2  # the first one's summary


def test_at_the_end_everything_is_handed_over_with_its_summaries() -> None:
    desk = AlertDesk(repeat_s=300, per_minute=1, queue=10)
    for code in ("a", "a", "b"):
        desk.accept(alert(code=code), 0)

    assert [(one.code, one.message[:5]) for one in desk.drain()] == [("a", "m"), ("b", "m"), ("a", "m (re")]
    assert desk.waiting == 0


# ---- what the monitor raises --------------------------------------------------------------------------------


def market(name: str = "kr", *, expected_since_s: float = 0.0) -> MarketReading:
    return MarketReading(
        name=name,
        is_open=expected_since_s > 0,
        last_data_ns=int(expected_since_s * 1e9),
        expected_since_ns=int(expected_since_s * 1e9),
        changes_at_ns=None,
    )


class Bell:
    """Alarms over a series of readings, one a second."""

    def __init__(self, *, is_redundant: bool = False) -> None:
        self.alerts = RecordingAlerts()
        self.alarms = Alarms(self.alerts, repeat_s=300)
        self.silences = Silences()
        self.history: list[object] = []
        self.is_redundant = is_redundant

    def see(self, at_s: float, *markets: MarketReading, wall_s: float | None = None, **parts: object) -> list[str]:
        now = reading(at_s, **parts)  # type: ignore[arg-type]
        if wall_s is not None:
            now = msgspec.structs.replace(now, wall_ns=int(wall_s * 1e9))
        self.history = [*self.history, now][-61:]
        before = len(self.alerts.sent)
        found = conditions(
            self.history,  # type: ignore[arg-type]
            self.silences.update(now, markets),
            silence_limit_s=30,
            is_redundant=self.is_redundant,
        )
        self.alarms.update(at_s, found)
        return [f"{level} {code}" for level, code, _, _ in self.alerts.sent[before:]]


@pytest.mark.requirement("QG-E2E-01")
def test_five_minutes_without_data_in_trading_hours_raise_an_alarm_and_their_end_is_told() -> None:
    bell = Bell()
    for at_s in range(1000, 1300):
        assert bell.see(at_s, market(expected_since_s=1000)) == []

    assert bell.see(1300, market(expected_since_s=1000)) == ["CRITICAL no_data"]
    assert bell.alerts.sent[-1][2:] == (
        "no data of market kr for more than 5 minutes of its trading hours",
        "kr",
    )
    assert bell.see(1301, market(expected_since_s=1000)) == []
    assert bell.see(1310, market(expected_since_s=1310)) == ["INFO no_data_ended"]


@pytest.mark.requirement("QG-E2E-01", "F05")
def test_a_closed_market_raises_no_alarm_however_long() -> None:
    bell = Bell()

    assert [bell.see(at_s, market()) for at_s in range(1000, 100_000, 100)] == [[]] * 990


@pytest.mark.requirement("QG-E2E-01")
def test_one_silent_market_is_noticed_beside_one_that_streams() -> None:
    bell = Bell()
    for at_s in range(1000, 1301):
        bell.see(at_s, market("kr", expected_since_s=1000), market("crypto", expected_since_s=at_s))

    assert [(code, subject) for _, code, _, subject in bell.alerts.sent] == [("no_data", "kr")]


@pytest.mark.requirement("QG-E2E-01")
def test_an_alarm_that_lasts_is_repeated_every_five_minutes() -> None:
    bell = Bell()
    for at_s in range(1000, 2501):
        bell.see(at_s, market(expected_since_s=1000))

    assert bell.alerts.codes() == ["no_data"] * 5  # at 300, 600, ... 1500


@pytest.mark.requirement("QG-E2E-01", "F58")
def test_a_wall_clock_that_jumps_raises_no_alarm() -> None:
    bell = Bell()
    bell.see(1000, market(expected_since_s=1000))

    for jump_s in (3600, -3600):
        assert bell.see(1001, market(expected_since_s=1000), wall_s=1001 + jump_s) == []
    assert bell.see(1300, market(expected_since_s=1000), wall_s=1300 + 3600) == ["CRITICAL no_data"]


def test_a_monitor_that_starts_in_the_middle_of_a_silence_knows_how_long_it_is() -> None:
    assert Bell().see(2000, market(expected_since_s=1000)) == ["CRITICAL no_data"]


def test_a_database_that_is_away_for_ten_seconds_is_told_with_its_end() -> None:
    bell = Bell()
    away = process("writer", database_connected=0)
    told = [bell.see(at_s, writer=away) for at_s in range(1000, 1012)]

    assert told == [[]] * 10 + [["CRITICAL database_away"], []]
    assert bell.see(1012) == ["INFO database_away_ended"]


def test_a_short_absence_is_not_worth_a_word() -> None:
    bell = Bell()
    for at_s in range(1000, 1009):
        bell.see(at_s, writer=process("writer", database_connected=0))
    bell.see(1009)

    assert bell.alerts.sent == []


def test_a_process_without_a_heartbeat_is_told() -> None:
    silent = process("writer", database_connected=1, silent_for_s=31)

    assert Bell().see(1000, writer=silent) == ["CRITICAL process_silent"]


def test_a_writer_that_stays_behind_is_told_after_half_a_minute() -> None:
    bell = Bell()
    half = (ring(head=1 << 20, writer=1 << 19),)
    told = [bell.see(at_s, rings=half) for at_s in range(1000, 1031)]

    assert told == [[]] * 30 + [["WARNING writer_lag"]]


def worker(**values: int) -> ProcessReading:
    healthy = process("worker-0", connections_planned=2, connections_ready=2, subscriptions_confirmed=4)
    return msgspec.structs.replace(healthy, values={**healthy.values, **values})


@pytest.mark.parametrize(
    ("counter", "grows_by", "told"),
    [
        ("volume_gaps", 1, ["WARNING volume_gaps"]),
        ("records_quarantined", 1, ["WARNING quarantine"]),
        ("ring_full_waits", 1, ["WARNING ring_full"]),
        ("duplicates_dropped", 99, []),
        ("duplicates_dropped", 100, ["WARNING duplicates"]),
        ("corrupt_records", 1, ["CRITICAL records_damaged"]),
        ("records_received", 1000, []),
    ],
)
def test_a_counter_that_should_stand_still_is_told_when_it_grows(counter: str, grows_by: int, told: list[str]) -> None:
    bell = Bell()

    assert bell.see(1000, worker=worker(**{counter: 500})) == []  # from before we began to look
    assert bell.see(1001, worker=worker(**{counter: 500 + grows_by})) == told
    for at_s in range(1002, 1100):
        assert bell.see(at_s, worker=worker(**{counter: 500 + grows_by})) == []


def test_duplicates_are_what_two_sessions_of_the_same_data_make() -> None:
    bell = Bell(is_redundant=True)
    bell.see(1000, worker=worker())

    assert bell.see(1001, worker=worker(duplicates_dropped=10_000, records_late=10_000)) == []


def test_a_counters_file_that_was_made_anew_is_no_growth() -> None:
    bell = Bell()
    bell.see(1000, worker=worker(volume_gaps=500))

    assert bell.see(1001, worker=worker(volume_gaps=3)) == []


def test_a_condition_that_goes_and_comes_is_told_each_time_and_the_desk_counts_it() -> None:
    alerts = RecordingAlerts()
    alarms = Alarms(alerts, repeat_s=300)
    broken = Condition(level="WARNING", code="c", message="m")
    for now_s, found in ((0, [broken]), (1, []), (2, [broken])):
        alarms.update(now_s, found)

    assert alerts.codes() == ["c", "c_ended", "c"]
