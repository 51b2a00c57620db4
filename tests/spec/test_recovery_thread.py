"""The recovery's own thread: what it tries again, what it tells, and how often."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from daemon.sinks.put_aside import Aside
from daemon.sinks.recovery import Pass
from daemon.sinks.recovery_thread import LiveLoad, RecoveryThread, WaitingAlerts

PATIENCE_S = 30.0


class NeedsOperator(psycopg.errors.UndefinedTable):
    """As the server would report it."""

    sqlstate = "42P01"


class Script:
    """A replayer that comes to what it is told, one look after the other; then it has nothing to do."""

    def __init__(self, *looks: Pass | psycopg.Error, aside: tuple[bool | psycopg.Error, ...] = ()) -> None:
        self._looks = list(looks)
        self._aside = list(aside)
        self.asked_aside = 0
        self.records = 0
        self.is_over = threading.Event()  # after one more look

    def replay(self, *, is_stopping: Callable[[], bool], after_each: Callable[..., object]) -> Pass:
        if not self._looks:
            if not self._aside:
                self.is_over.set()
            return Pass()
        look = self._looks.pop(0)
        if isinstance(look, psycopg.Error):
            raise look
        self.records += look.records
        return look

    def store_put_aside(self) -> bool:
        self.asked_aside += 1
        found = self._aside.pop(0) if self._aside else True
        if isinstance(found, psycopg.Error):
            raise found
        return found

    def show_size(self) -> None:
        pass


class Connection:
    """Of the thread; nothing is asked through it here."""

    def store_put_aside(self) -> Aside:
        raise NotImplementedError

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


Start = Callable[[Script], RecoveryThread]


@pytest.fixture
def start() -> Iterator[Start]:
    threads: list[RecoveryThread] = []

    def begin(script: Script) -> RecoveryThread:
        replayer: Any = script
        database: Any = Connection()
        thread = RecoveryThread(replayer, database, LiveLoad(), every_s=0.001, again_s=0.001, alerts=WaitingAlerts())
        threads.append(thread)
        thread.start()
        thread.allow(True)
        assert script.is_over.wait(PATIENCE_S)
        thread.stop(PATIENCE_S)
        return thread

    yield begin
    for thread in threads:
        thread.stop(PATIENCE_S)


def codes(thread: RecoveryThread) -> list[str]:
    return [code for _, code, _, _ in thread.news()]


@pytest.mark.requirement("F53")
def test_an_interruption_is_told_once_for_as_long_as_it_lasts_and_the_next_one_again(start: Start) -> None:
    no = NeedsOperator("no such table")
    script = Script(no, no, no, Pass(), no, no)

    assert codes(start(script)) == ["recovery_interrupted"] * 2


@pytest.mark.requirement("DLP-01", "F43")
def test_lost_batches_are_told_with_their_number(start: Start) -> None:
    news = start(Script(Pass(lost=2), Pass())).news()

    ((level, code, message, _),) = news
    assert (level, code) == ("CRITICAL", "spilled_batch_lost")
    assert "2 spill files" in message


@pytest.mark.requirement("F46")
def test_what_was_stored_is_told_when_nothing_waits_any_more_and_once(start: Start) -> None:
    script = Script(
        Pass(stored=1, records=5, unregistered=1),
        Pass(unregistered=1),  # registered later
        Pass(is_complete=False),  # interrupted
        Pass(stored=1, records=7),
        Pass(),
        Pass(),
        Pass(stored=1, records=3),
        Pass(),
    )

    news = start(script).news()

    assert [code for _, code, _, _ in news] == ["spill_recovered"] * 2
    assert [message.split()[0] for _, _, message, _ in news] == ["12", "3"]


@pytest.mark.requirement("F46", "DLP-01")
def test_a_file_that_cannot_be_read_keeps_no_recovery_from_being_told(start: Start) -> None:
    news = start(Script(Pass(stored=1, records=5, unreadable=2), Pass(unreadable=2), Pass(unreadable=2))).news()

    ((level, code, message, _),) = news
    assert (level, code) == ("INFO", "spill_recovered")
    assert message.startswith("5 spilled records")
    assert message.endswith("2 files cannot be read and wait")


@pytest.mark.requirement("DLP-01", "DLP-02")
@pytest.mark.parametrize("first", [False, psycopg.OperationalError("gone")], ids=["locked", "away"])
def test_rows_that_were_put_aside_are_tried_until_none_waits_and_then_left_alone(
    start: Start, first: bool | psycopg.Error
) -> None:
    script = Script(Pass(), Pass(), Pass(), Pass(), Pass(), aside=(first, first, True))

    start(script)

    assert script.asked_aside == 3
