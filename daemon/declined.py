"""Registrations that one session could not have, for another one to try: `state/declined`, one file an account.

A session that gave a registration up (three requests in vain, an account without the right to it, a slot that somebody
else holds) is no proof against the symbol: another session may carry it. What is kept here for a day makes the next
plan prefer other accounts; it never leaves anything out. A file that is lost or damaged costs that preference only.
"""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

from daemon.learned_limits import MAX_NAME, RETRY_AFTER, utc_now
from daemon.supervision.directory_lock import write_atomically

DIRECTORY = Path("state") / "declined"
SUFFIX = ".json"

Key = tuple[str, str]  # channel and key of a registration


class Declined(msgspec.Struct, frozen=True):
    """One registration that the session of an account could not have. reason: without secrets, for people."""

    channel: str
    key: str
    reason: str
    at: datetime.datetime


class _File(msgspec.Struct, frozen=True):
    account: str
    declined: tuple[Declined, ...]


class DeclinedRegistrations:
    """Nothing is cached: another process may have written meanwhile. Reading creates nothing."""

    def __init__(self, data_dir: Path, *, now: Callable[[], datetime.datetime] = utc_now) -> None:
        """now: aware."""
        self._directory = data_dir / DIRECTORY
        self._now = now

    def path(self, account: str) -> Path:
        """Return the file of *account*."""
        encoded = account.encode()
        return self._directory / f"{quote(account, safe='')[:MAX_NAME]}-{zlib.crc32(encoded):08x}{SUFFIX}"

    def of(self, account: str) -> dict[Key, Declined]:
        """Return what the session of *account* could not have within the last day."""
        try:
            found = msgspec.json.decode(self.path(account).read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}
        if found.account != account:
            return {}
        now = self._now()
        return {(one.channel, one.key): one for one in found.declined if abs(now - one.at) < RETRY_AFTER}

    def all_of(self, accounts: Iterable[str]) -> dict[str, frozenset[Key]]:
        """Return channels and keys by account, for those of *accounts* that have any."""
        return {account: frozenset(keys) for account in accounts if (keys := self.of(account))}

    def record(self, account: str, reasons: Mapping[Key, str]) -> bool:
        """Keep that *account* could not have these; False if nothing of it is new. Raises OSError."""
        known = self.of(account)
        fresh = {key: reason for key, reason in reasons.items() if key not in known}
        if not fresh:
            return False
        at = self._now()
        known |= {(channel, key): Declined(channel, key, reason, at) for (channel, key), reason in fresh.items()}
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.path(account), msgspec.json.encode(_File(account, tuple(known.values()))) + b"\n")
        return True
