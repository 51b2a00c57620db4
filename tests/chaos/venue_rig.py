"""A rig with accounts of several venues, for faults that concern some of them: an app key is the tag of its faults."""

import dataclasses
import json
import signal
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import psycopg

from daemon.embedded import EmbeddedPostgres, EmbeddedRedis
from daemon.simulator.journal import events_path
from tests.rig import Rig, Verdict, wait_for

# Waiting for a venue takes seconds in earnest; here it takes fractions of one.
QUICK: Mapping[str, float] = {
    "subscribe_interval_ms": 2,
    "subscribe_timeout_s": 1.0,
    "backoff_first_s": 0.05,
    "backoff_max_s": 0.5,
    "slot_held_backoff_s": 0.3,
    "key_cooldown_s": 1.0,
}


@dataclasses.dataclass(frozen=True)
class Feed:
    """One feed of the file: symbols of a market through one account, or through several."""

    accounts: Sequence[str]
    symbols: Sequence[str]
    market: str = "kr"
    kinds: Sequence[str] = ("trade", "orderbook")
    redundancy: str = "none"

    @property
    def registrations(self) -> int:
        """How many registrations the feed makes."""
        return len(self.symbols) * len(self.kinds) * (2 if self.redundancy == "ab" else 1)


class VenueRig(Rig):
    """A daemon with any accounts and feeds. The app key of account NAME is key-NAME."""

    def __init__(
        self,
        directory: Any,
        postgres_dsn: str,
        redis_url: str,
        *,
        accounts: Mapping[str, str],
        feeds: Sequence[Feed],
        workers: int = 1,
        **ingest: float,
    ) -> None:
        """accounts: name -> venue. ingest: settings of that section."""
        super().__init__(
            directory,
            cast(EmbeddedPostgres, SimpleNamespace(dsn=postgres_dsn)),
            cast(EmbeddedRedis, SimpleNamespace(url=redis_url)),
            workers=workers,
        )
        self.accounts = accounts
        self.feeds = list(feeds)
        self.ingest = {**QUICK, **ingest}
        self.address: dict[str, Any] = {}
        self.ended_ns = 0  # when the venue began to close everything

    def _config(self, address: dict[str, Any]) -> str:
        self.address = address
        text = [
            f'data_dir = "{self.data_dir}"\nworkers = {self.workers}',
            f'[database]\ndsn = "{self.postgres.dsn}"',
            f'[redis]\nurl = "{self.redis.url}"\nretry_max_s = 0.5',
            f'[http]\nhost = "127.0.0.1"\nport = {self.http_port}',
            "[ring]\ncapacity_mb = 64",
            "[ingest]\n" + "\n".join(f"{name} = {value}" for name, value in self.ingest.items()),
            "[supervision]\ngrace_s = 20",
            '[log]\nformat = "json"',
        ]
        for name, venue in self.accounts.items():
            place = address["venues"][venue]
            text.append(
                f'[[accounts]]\nname = "{name}"\nvenue = "{venue}"\napp_key = "key-{name}"\napp_secret = "secret"\n'
                f'ws_url = "{place["ws_url"]}"\nrest_url = "{place["rest_url"]}"'
            )
        for feed in self.feeds:
            text.append(
                f'[[feeds]]\naccounts = {json.dumps(list(feed.accounts))}\nmarket = "{feed.market}"\n'
                f'kinds = {json.dumps(list(feed.kinds))}\nredundancy = "{feed.redundancy}"\n'
                f"symbols = {json.dumps(list(feed.symbols))}"
            )
        return "\n".join(text) + "\n"

    @property
    def wanted(self) -> int:
        """How many registrations all feeds make."""
        return sum(feed.registrations for feed in self.feeds)

    def start(
        self, *, rate: float, faults: Sequence[str] = (), extra: Sequence[str] = (), start_after: int | None = None
    ) -> None:
        """Start venue and daemon, and wait for the first data. start_after: registrations; None: all."""
        count = self.wanted if start_after is None else start_after
        self.start_simulator(rate=rate, faults=tuple(faults), extra=("--start-after", str(count), *extra))
        self.start_daemon()
        wait_for(lambda: self.total("records_received") > 0, f"first data: {self.tail()}")

    def reload(self, feeds: Sequence[Feed]) -> None:
        """Write the file with other feeds and ask the daemon to read it; return when it has."""
        self.feeds = list(feeds)
        self.reload_text(self._config(self.address))

    def reload_text(self, text: str) -> None:
        """Do the same with any content."""
        assert self.daemon is not None
        before = self.reloads()
        self.config_path.write_text(text)
        self.daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: self.reloads() > before, f"the reload: {self.tail()}")

    def reloads(self) -> int:
        """How often the daemon has answered to SIGHUP."""
        return len(self.events("reloaded")) + len(self.events("reload_refused"))

    def requests(self, *, after_ns: int = 0) -> list[dict[str, Any]]:
        """Return the venue's account of the requests it got: event, session, tr_id, tr_key, msg_cd."""
        return [event for event in self.happened(after_ns=after_ns) if "tr_key" in event]

    def wait_registered(self, count: int, *, after_ns: int, symbols: Sequence[str] = ()) -> None:
        """Wait until the venue has accepted *count* registrations since then (of *symbols*; none: of any)."""

        def accepted() -> int:
            return sum(
                event["msg_cd"] == "OPSP0000" and (not symbols or event["tr_key"] in symbols)
                for event in self.requests(after_ns=after_ns)
            )

        wait_for(lambda: accepted() >= count, f"{count} registrations: {self.tail()}", 20.0)

    def happened(self, *, after_ns: int = 0) -> list[dict[str, Any]]:
        """Return all that the venue noted of its sessions."""
        lines = events_path(self.journal).read_bytes().splitlines(keepends=True)
        found = [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]
        return [event for event in found if event["time_ns"] > after_ns]

    def finish(self) -> tuple[Verdict, dict[str, Any]]:
        """End offer and daemon; put the books side by side. Return the verdict and the simulator's totals."""
        self.ended_ns = time.time_ns()
        totals = self.stop_simulator()
        assert self.stop_daemon() == 0, self.tail()
        verdict = self.compare()
        assert verdict.is_exact, f"{verdict}\n{self.tail()}"
        return verdict, totals

    def query(self, text: str, *parameters: Any, **named: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query that may read the journal as a table of its own."""
        with self._with_journal() as connection:
            return connection.execute(cast(Any, text), named or parameters).fetchall()

    def gaps(self, symbols: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        """Return (symbol, kind, reason, missing) of the gaps of *symbols* (none: of all), but for the venue's end."""
        with psycopg.connect(self.postgres.dsn) as connection:
            return connection.execute(
                "SELECT symbol, kind, reason, missing FROM feed_gaps WHERE (symbol = ANY(%s) OR %s)"
                " AND NOT (reason = 'connection lost' AND ended > to_timestamp(%s)) ORDER BY started",
                (list(symbols), not symbols, self.ended_ns / 1e9),
            ).fetchall()

    def alerts(self) -> set[str]:
        """Return the codes of the alerts that the daemon logged."""
        return {event["code"] for event in self.events("alert")}
