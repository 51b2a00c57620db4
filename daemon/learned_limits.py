"""Limits that a venue has taught us by refusing: kept under `state/limits` of the data directory, one file an account.

A venue may allow an account fewer registrations than it documents, and says so only by a refusal. It never tells when
it allows more: what was learned holds for a day, then the documented limit is tried again, at the price of one refusal
if nothing has changed. One file an account, because the workers write at the same time; each is replaced as a whole and
carries a checksum.
"""

from __future__ import annotations

import datetime
import os
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from daemon import log

DIRECTORY = Path("state") / "limits"
SUFFIX = ".json"
MAX_NAME = 100  # of an account in a file name; longer ones are told apart by their checksum
# A refusal may have been the venue's bad moment, or another program's session: a day later it is put to the test.
RETRY_AFTER = datetime.timedelta(days=1)


def utc_now() -> datetime.datetime:
    """Return the time, aware."""
    return datetime.datetime.now(datetime.UTC)


class LearnedLimit(msgspec.Struct, frozen=True):
    """What one file says. checksum: crc32 of the other fields."""

    account: str
    limit: int
    learned_at: datetime.datetime
    checksum: int = 0

    def sealed(self) -> LearnedLimit:
        """Return it with the checksum that its fields should have."""
        plain = msgspec.structs.replace(self, checksum=0)
        return msgspec.structs.replace(plain, checksum=zlib.crc32(msgspec.json.encode(plain)))


class LearnedLimits:
    """Nothing is cached: another process may have learned meanwhile. Reading creates nothing."""

    def __init__(self, data_dir: Path, *, now: Callable[[], datetime.datetime] = utc_now) -> None:
        """now: aware."""
        self._directory = data_dir / DIRECTORY
        self._now = now

    def path(self, account: str) -> Path:
        """Return the file of *account*: what to delete when the venue allows more again."""
        encoded = account.encode()
        return self._directory / f"{quote(account, safe='')[:MAX_NAME]}-{zlib.crc32(encoded):08x}{SUFFIX}"

    def get(self, account: str) -> int | None:
        """Return the limit in force for *account*, None if there is none. A damaged file is moved aside, loudly."""
        found = self.read(account)
        return None if found is None or abs(self._now() - found.learned_at) >= RETRY_AFTER else found.limit

    def read(self, account: str) -> LearnedLimit | None:
        """Return limit and date, also of one that is to be tried again; None if there is none."""
        path = self.path(account)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            log.get().error("limits_file_unreadable", path=str(path), error=exc.strerror)
            return None
        try:
            found = msgspec.json.decode(content, type=LearnedLimit)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        if found is None or found != found.sealed() or found.account != account or found.limit < 1:
            _move_aside(path)
            return None
        return found

    def all_of(self, accounts: list[str]) -> dict[str, int]:
        """Return the limits by account, for those of *accounts* that have one."""
        return {account: limit for account in accounts if (limit := self.get(account)) is not None}

    def record(self, account: str, limit: int, at: datetime.datetime, *, confirmed: int = 0) -> bool:
        """Keep *limit*, durably; False if nothing is new. *at* is aware.

        confirmed: registrations that the venue has confirmed in this session; nothing below that is believed, and
        nothing below 1: a session that is refused everything has another trouble. Raises OSError if the disk refuses.
        """
        limit = max(limit, confirmed)
        if limit < 1 or limit == self.get(account):
            return False
        self._write(LearnedLimit(account, limit, at.astimezone(datetime.UTC)).sealed())
        return True

    def _write(self, learned: LearnedLimit) -> None:
        path = self.path(learned.account)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(learned) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
            _sync_directory(self._directory)
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _move_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    found: Any = log.get()  # structlog's logger
    with suppress(FileNotFoundError):  # another process was quicker
        try:
            path.rename(aside)
        except PermissionError as exc:
            found.error("limits_file_damaged", path=str(path), error=exc.strerror)
        else:
            found.error("limits_file_damaged", path=str(path), moved_to=str(aside))


class Lapses:
    """Notices limits that have come to their end: whoever planned with them has to plan anew."""

    def __init__(self, limits: LearnedLimits) -> None:
        self._limits = limits
        self._in_force: frozenset[str] = frozenset()

    def count(self, accounts: Iterable[str]) -> int:
        """Return how many of *accounts* had a limit when this was asked last, and have none any more."""
        names = list(accounts)
        in_force = frozenset(self._limits.all_of(names))
        lapsed = (self._in_force - in_force) & set(names)
        self._in_force = in_force
        return len(lapsed)
