"""The ring as a list: what its producer and its consumers may observe, without bytes, laps or atomics.

A gating reader sees every published record behind its position; a lossy one a subsequence of them, with the number of
those in between counted. `tests/spec/test_ring_model.py` compares the two.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass
class ModelReader:
    """A consumer's cursors, as numbers of records."""

    read: int = 0
    committed: int = 0
    lapped: int = 0

    def skip_to(self, number: int) -> None:
        """A lossy reader saw record *number* next: what lies before was lapped."""
        self.lapped += number - self.read
        self.read = number


@dataclass
class RingModel:
    """The producer's side: (seq, body) of every appended record, and how many of them are published."""

    next_seq: int
    appended: list[tuple[int, bytes]] = field(default_factory=list)
    published: int = 0

    def append(self, body: bytes) -> int:
        """Append a record; return the seq that the ring must give it."""
        self.appended.append((self.next_seq, body))
        self.next_seq += 1
        return self.next_seq - 1

    def publish(self) -> None:
        """Everything appended becomes visible."""
        self.published = len(self.appended)

    def crash(self) -> None:
        """The producer is gone without publishing: its successor takes over what it had written."""
        self.publish()

    def visible(self, reader: ModelReader) -> list[tuple[int, bytes]]:
        """What *reader* has not read yet."""
        return self.appended[reader.read : self.published]

    def number_of(self, seq: int) -> int:
        """How many records of the stream have a lower seq."""
        return bisect_left(self.appended, (seq, b""))
