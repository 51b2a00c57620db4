"""The journal keeps what it is given, in a form that COPY can read."""

import csv
import json
import os
from pathlib import Path

import pytest

from daemon.simulator.journal import HEADER, Journal, events_path


def test_records_and_events_are_on_disk_after_close(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    journal = Journal(path)
    journal.open()

    journal.event(event="connect", time_ns=1, session=1)
    journal.record_lines("1,trade,005930,37,71200,37,1000\n1,orderbook,005930,1,71300,1001,1000\n")
    journal.record_lines("2,trade,000660,5,182500,5,1001\n")
    journal.close()

    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert HEADER.split(",") == list(rows[0])
    assert [(row["kind"], row["key"]) for row in rows] == [("trade", "37"), ("orderbook", "1"), ("trade", "5")]
    assert [json.loads(line) for line in events_path(path).read_text().splitlines()] == [
        {"event": "connect", "time_ns": 1, "session": 1}
    ]


def test_a_journal_that_exists_is_continued_under_its_one_header(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    for line in ("1,trade,005930,37,71200,37,1000\n", "1,trade,005930,40,71200,3,2000\n"):
        journal = Journal(path)
        journal.open()
        journal.record_lines(line)
        journal.close()

    assert (path.read_text().splitlines()) == [
        HEADER,
        "1,trade,005930,37,71200,37,1000",
        "1,trade,005930,40,71200,3,2000",
    ]


def test_a_journal_that_cannot_be_written_stops_the_offer_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    path.symlink_to("/dev/full")
    journal = Journal(path)
    journal.open()
    journal.record_lines("1,trade,005930,37,71200,37,1000\n")

    with pytest.raises(OSError, match="No space left"):
        journal.close()

    with pytest.raises(OSError, match="No space left"):
        _ = journal.is_behind


def test_a_journal_too_far_behind_the_offer_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.csv", max_pending_bytes=100)  # not opened: no thread takes anything away

    journal.record_lines("x" * 100)
    assert not journal.is_behind
    journal.record_lines("x")
    assert journal.is_behind


def test_everything_is_fsynced_before_close_returns(tmp_path: Path) -> None:
    path = tmp_path / "journal.csv"
    synced: dict[int, int] = {}  # inode -> size when it was last synced

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size

    journal = Journal(path, fsync=fsync)
    journal.open()
    journal.record_lines("1,trade,005930,37,71200,37,1000\n")
    journal.event(event="disconnect", time_ns=2, session=1)
    journal.close()

    assert synced == {file.stat().st_ino: file.stat().st_size for file in (path, events_path(path))}
