"""`sise quarantine replay` as a command: which entries, and what is said about each."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from daemon.config import Config
from daemon.errors import ConfigError
from daemon.sinks import quarantine
from daemon.sinks.quarantine_replay import DONE, Outcome, Replay

MAX_SHOWN = 50


def replay_and_report(
    config: Config,
    entry_ids: Sequence[str],
    say: Callable[[str], object],
    *,
    is_all: bool = False,
    venue: str | None = None,
    since: datetime | None = None,
    account: str | None = None,
    dry_run: bool = False,
    as_json: bool = False,
) -> bool:
    """Replay *entry_ids*, or all; return whether nothing of what was asked for still lies in quarantine.

    Raises ConfigError: neither or both of IDs and --all, an ID that is none. Raises psycopg.Error as `Replay.run`.
    """
    if bool(entry_ids) == is_all:
        raise ConfigError("name the entries to replay, or --all")
    if not is_all and (venue is not None or since is not None):
        raise ConfigError("--venue and --since belong to --all")
    ids = None if is_all else [quarantine.parse_id(text) for text in dict.fromkeys(entry_ids)]
    outcomes: Counter[Outcome] = Counter()
    rows = 0
    database = config.database
    with (
        quarantine.connect(database.dsn, timeout_s=database.connect_timeout_s) as connection,
        Replay(config, connection, account=account, is_dry_run=dry_run) as replay,
    ):
        for result in replay.run(ids, venue=venue, since=since):
            outcomes[result.outcome] += 1
            rows += result.rows
            if as_json:
                say(json.dumps(result.as_dict()))
            elif result.outcome not in DONE and outcomes.total() - _done(outcomes) <= MAX_SHOWN:
                say(f"{result.id}: {result.outcome.value}{': ' if result.reason else ''}{result.reason}")
    if not as_json:
        for outcome, count in outcomes.items():
            say(f"{count:,} {outcome.value}")
        say(f"{rows:,} rows {'would be stored; nothing was changed' if dry_run else 'stored'}")
    return _done(outcomes) == outcomes.total()


def _done(outcomes: Counter[Outcome]) -> int:
    return sum(outcomes[outcome] for outcome in DONE)
