"""What subscribers never receive: given up in time and by channel, or overwritten, damaged, refused. All is counted.

A ring that Redis does not keep up with would go round, and nobody could say what was lost. So while there is still
room the oldest records are read and given up: the subscribers then get what is newest, and are told how much of which
channel is missing.
"""

from collections import Counter
from collections.abc import Mapping

from daemon import failpoints, log
from daemon.sinks.host import Clock, Counters
from daemon.sinks.publisher_accounts import DROPPED, Accounts
from daemon.sinks.publisher_interfaces import Batch, Reader

GIVE_UP_ABOVE = 0.9  # of a ring; a tenth is a second at full rate, and to read as much takes milliseconds
GIVE_UP_TO = 0.75
CHUNK_RECORDS = 2_000
REPORT_INTERVAL_S = 60.0


class PublishLosses:
    """Gives up what cannot be published in time; keeps the counters of all losses, and logs them once a minute."""

    def __init__(
        self, readers: Mapping[int, Reader], batch: Batch, counters: Counters, clock: Clock, accounts: Accounts
    ) -> None:
        self._accounts = accounts
        self._readers = readers
        self._batch = batch
        self._counters = counters
        self._clock = clock
        self._counted = {"publish_lapped": self._sum_lapped(), "corrupt_records": self._sum_corrupt()}
        self._dropped: Counter[str] = Counter(batch.dropped)
        self._unreported: Counter[str] = Counter()  # by channel
        self._unreported_records = 0
        self._refusal: tuple[str, str] | None = None
        self._report_due = clock.monotonic()
        self._log = log.get()

    def relieve(self) -> None:
        """Give up the oldest records of every ring that is nearly full. Moves the ring's own memory of us too."""
        for reader in self._readers.values():
            if reader.lag_bytes <= GIVE_UP_ABOVE * reader.capacity_bytes:
                continue
            while reader.lag_bytes > GIVE_UP_TO * reader.capacity_bytes:
                if not self._batch.skip_from(reader, CHUNK_RECORDS):
                    break
                new = self._new_dropped()
                self._accounts.give_up({**self.uncounted(), DROPPED: new.total()})
                failpoints.reach("publisher.giving_up")
                self.count_refused(new)
                self.count()
                reader.commit()
                failpoints.reach("publisher.gave_up")

    def count_refused(self, channels: Counter[str]) -> None:
        """Count messages, by channel, that Redis refused for good."""
        if channels:
            self._counters.increment(DROPPED, channels.total())
            self._unreported.update(channels)

    def note_refusal(self, key: str, error: str) -> None:
        """Remember the last command that EXEC ran in vain: *key* is what it was about."""
        self._refusal = (key, error)

    def count(self) -> None:
        """Bring the counters up to date with what the readers noticed."""
        for name, new in self.uncounted().items():
            self._counters.increment(name, new)
            self._counted[name] += new
            self._unreported_records += new

    def uncounted(self) -> dict[str, int]:
        """Return what count() will count."""
        totals = {"publish_lapped": self._sum_lapped(), "corrupt_records": self._sum_corrupt()}
        return {name: total - self._counted[name] for name, total in totals.items() if total > self._counted[name]}

    def report(self) -> None:
        """Log what was lost since the last time, at most once a minute."""
        now = self._clock.monotonic()
        if now < self._report_due or not (self._unreported or self._unreported_records or self._refusal):
            return
        self._report_due = now + REPORT_INTERVAL_S
        if self._unreported_records:
            self._log.warning("messages_not_published", records=self._unreported_records)
        if self._unreported:
            self._log.warning("messages_dropped", channels=dict(self._unreported), records=self._unreported.total())
        if self._refusal:
            self._log.warning("redis_refused", key=self._refusal[0], error=self._refusal[1])
        self._refusal = None
        self._unreported.clear()
        self._unreported_records = 0

    def _new_dropped(self) -> Counter[str]:
        new = Counter(self._batch.dropped)
        new.subtract(self._dropped)
        self._dropped = Counter(self._batch.dropped)
        return +new

    def _sum_lapped(self) -> int:
        return sum(reader.lapped_records for reader in self._readers.values()) + self._batch.unread

    def _sum_corrupt(self) -> int:
        return sum(reader.corrupt_records for reader in self._readers.values())
