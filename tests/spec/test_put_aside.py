"""Rows that were put aside: batch by batch, none given up that only waits, and no failure taken for a lock."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import psycopg
import pytest

from daemon.sinks import put_aside
from daemon.sinks.put_aside import REFUSE, Aside, store_waiting
from daemon.sinks.quarantine import EntryId
from daemon.sinks.quarantine_replay import Outcome, Result


class Locked(psycopg.errors.LockNotAvailable):
    sqlstate = "55P03"


class Full(psycopg.errors.DiskFull):
    sqlstate = "53100"


class Server:
    """Waiting rows in batches, and what becomes of each batch: outcomes of its rows, or a failure."""

    def __init__(self, *batches: Sequence[Outcome] | psycopg.Error) -> None:
        self.batches = list(batches)
        self.refused: list[tuple[int, int]] = []

    def execute(self, query: object, values: Sequence[Any]) -> Self:
        if query == REFUSE:
            self.refused.append((values[1], values[2]))
        return self

    def fetchall(self) -> list[tuple[int, int]]:
        if not self.batches:
            return []
        batch = self.batches[0]
        return [(0, seq) for seq in range(1 if isinstance(batch, psycopg.Error) else len(batch))]


class FakeReplay:
    def __init__(self, _config: object, server: Server) -> None:
        self._server = server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, ids: Sequence[EntryId]) -> Iterator[Result]:
        batch = self._server.batches.pop(0)
        if isinstance(batch, psycopg.Error):
            raise batch
        for one, outcome in zip(ids, batch, strict=True):
            yield Result(one, outcome, reason="23514 no")


def store(monkeypatch: pytest.MonkeyPatch, server: Any) -> Aside:
    monkeypatch.setattr(put_aside, "Replay", FakeReplay)
    return store_waiting(server)


@pytest.mark.requirement("F54", "DLP-01")
def test_all_batches_are_stored_and_counted_and_what_the_table_refuses_is_told_and_waits_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server([Outcome.STORED, Outcome.REFUSED], [Outcome.KNOWN, Outcome.TAKEN], [Outcome.FAILS])

    assert store(monkeypatch, server) == Aside(2, ["23514 no"] * 2)

    assert server.refused == [(0, 1), (0, 0)]


@pytest.mark.requirement("F54", "DLP-01")
@pytest.mark.parametrize("end", [Locked("locked"), [Outcome.TAKEN]], ids=["locked", "taken"])
def test_what_is_locked_or_just_being_stored_by_another_waits(monkeypatch: pytest.MonkeyPatch, end: Any) -> None:
    server = Server([Outcome.STORED], end)

    assert store(monkeypatch, server) == Aside(1, [], is_waiting=True)

    assert server.refused == []


@pytest.mark.requirement("F54")
def test_any_other_failure_is_not_taken_for_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Full):
        store(monkeypatch, Server([Outcome.STORED], Full("no space")))
