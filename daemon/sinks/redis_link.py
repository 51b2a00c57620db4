"""The publisher's connection to Redis: redis-py opens, authenticates and carries it, natively packed bytes go through.

redis-py would make a Python object of each reply, which costs more than encoding the message did. So its parser is
extended by one mode, in which `TransactionReplies` counts the replies and keeps the errors.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, DefaultParser
from redis.retry import Retry

from daemon import log
from daemon.config import Redis as RedisSettings
from daemon.errors import Retryable
from daemon.identity import LEASE_S, Owner, is_dead, refusal
from daemon.sinks.redis_errors import Reaction, reaction_to, text_of
from native_pipeline.redis_encoder import CURSOR_KEY, LAST_KEY
from native_pipeline.redis_replies import TransactionReplies

RECEIVE_BYTES = 1 << 16  # the replies to a full batch arrive in one or two reads
CLIENT_NAME = "sise-publisher"
OWNER_KEY = "published:owner"  # identity, process and place of the data directory that publishes here; expires


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a ring was published, as Redis knows it."""

    epoch: int
    seq: int
    last: Mapping[str, int] = field(default_factory=dict)  # channel, or LOST -> seq, see redis_encoder.LAST_KEY


class RedisAway(Retryable):
    """Redis cannot be reached, or refuses to work for us at the moment."""

    def __init__(self, message: str, reaction: Reaction = Reaction.RETRY) -> None:
        super().__init__(message)
        self.reaction = reaction


class RedisOwned(RedisAway):
    """It takes the messages of another data directory at present, whose daemon was seen *age_s* ago."""

    def __init__(self, message: str, age_s: int) -> None:
        super().__init__(message, Reaction.WAIT)
        self.age_s = age_s


class TransactionParser(DefaultParser):  # type: ignore[misc, valid-type] # redis-py chooses a class at import
    """redis-py's parser, which can also read the replies to one natively packed transaction."""

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self.expected: TransactionReplies | None = None
        self._received = memoryview(bytearray(RECEIVE_BYTES))

    def read_response(self, *args: Any, **kwargs: Any) -> Any:  # Any: as in redis-py, whose arguments are passed on
        """Read one reply, or all the expected ones. Errors of the socket become redis-py's in its read_response()."""
        if self.expected is None:
            return super().read_response(*args, **kwargs)
        while not self.expected.complete:
            size = self._sock.recv_into(self._received)
            if size == 0:
                raise redis.ConnectionError("connection closed by the server")
            if self.expected.feed(self._received[:size]):
                raise redis.InvalidResponse("more replies than commands")
        return None


class RedisLink:
    """One connection, opened by connect() and given up at the first error."""

    def __init__(self, settings: RedisSettings, owner: Owner | None = None) -> None:
        """owner: the data directory that must own the server; None: whose it is does not matter."""
        self._settings = settings
        self._owner = owner
        self._connection: Any = None  # redis-py's connection classes share no typed base
        self._parser: TransactionParser | None = None

    def connect(self, rings: Sequence[int]) -> Mapping[int, Cursor]:
        """Connect, and return the cursors that Redis holds. Raises RedisAway.

        The cursors are watched from before they are read: the next transaction fails if anybody else moves one,
        be it a predecessor that is still alive or our own last transaction, late on a connection that we gave up.
        """
        self.close()
        try:
            self._connection = self._new_connection()
            self._connection.connect()
            self._take()
            self._call("WATCH", CURSOR_KEY)
            values = self._call("HMGET", CURSOR_KEY, *(f"ring-{ring}" for ring in rings))
            last = _parse_last(self._call("HGETALL", LAST_KEY))
        except (redis.RedisError, OSError) as exc:
            self.close()
            raise _away(exc) from exc
        except RedisAway:
            self.close()
            raise
        cursors = {
            ring: _parse_cursor(value, last.get(str(ring), {})) for ring, value in zip(rings, values, strict=True)
        }
        return {ring: cursor for ring, cursor in cursors.items() if cursor is not None}

    def send(self, payload: memoryview, commands: int) -> TransactionReplies:
        """Send one transaction of *commands* and return its replies, complete.

        Raises RedisAway: then it is unknown whether the transaction has happened, and the connection is closed.
        """
        assert self._connection is not None
        assert self._parser is not None
        replies = TransactionReplies(commands)
        self._parser.expected = replies
        try:
            self._connection.send_packed_command([payload], check_health=False)
            self._connection.read_response()
        except (redis.RedisError, OSError, ValueError) as exc:
            self.close()
            raise _away(exc) from exc
        self._parser.expected = None
        return replies

    def keep_owner(self) -> None:
        """Say that our data directory still owns the server. Raises RedisAway: it is another's, or cannot be asked."""
        try:
            self._take()
        except (redis.RedisError, OSError) as exc:
            self.close()
            raise _away(exc) from exc
        except RedisAway:
            self.close()
            raise

    def give_up_owner(self) -> None:
        """Let another data directory have the server from now on. Raises RedisAway."""
        try:
            if self._owner is not None and _is_of(self._call("GET", OWNER_KEY), self._owner):
                self._call("DEL", OWNER_KEY)
        except (redis.RedisError, OSError) as exc:
            self.close()
            raise _away(exc) from exc

    def _take(self) -> None:
        """Make the server ours, or keep it so. A full or read-only one refuses that: it also refuses messages."""
        if self._owner is None:
            return
        ours = _name(self._owner)
        try:
            found = self._call("GET", OWNER_KEY)
        except redis.exceptions.NoPermissionError:  # whose it is cannot be known, and is no reason to publish nothing
            return
        if found is not None and not _is_of(found, self._owner) and is_dead(_parts(found)[1]):
            self._call("DEL", OWNER_KEY)
            found = None
        if found is None:
            with suppress(redis.ResponseError):
                self._call("SET", OWNER_KEY, ours, "NX", "EX", LEASE_S)
            found = self._call("GET", OWNER_KEY) or ours
        if not _is_of(found, self._owner):
            age_s = LEASE_S - max(0, int(self._call("TTL", OWNER_KEY)))
            raise RedisOwned(refusal("Redis", _parts(found)[2], age_s, "redis.url"), age_s)
        with suppress(redis.ResponseError):
            if found == ours:
                self._call("EXPIRE", OWNER_KEY, LEASE_S)
            else:  # by the supervisor before this one
                self._call("SET", OWNER_KEY, ours, "XX", "EX", LEASE_S)

    def close(self) -> None:
        """Disconnect. From another thread this ends a connect() or send() that hangs."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _new_connection(self) -> Any:
        # The pool is only how redis-py turns a URL (TLS, credentials, Unix socket, database) into a connection.
        pool = ConnectionPool.from_url(
            self._settings.url,
            protocol=2,
            parser_class=self._new_parser,
            client_name=CLIENT_NAME,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=self._settings.timeout_s,
            socket_connect_timeout=self._settings.timeout_s,
        )
        return pool.make_connection()

    def _new_parser(self, socket_read_size: int) -> TransactionParser:
        self._parser = TransactionParser(socket_read_size)
        return self._parser

    def _call(self, *words: str | bytes | int) -> Any:
        self._connection.send_command(*words)
        return self._connection.read_response()


def _name(owner: Owner) -> bytes:
    return f"{owner.identity} {owner.process} {owner.place}".encode()


def _is_of(found: bytes | None, owner: Owner) -> bool:
    return found is not None and _parts(found)[0] == str(owner.identity)


def _parts(found: bytes) -> tuple[str, str, str]:
    """Return identity, process and place; the place may have spaces."""
    identity, _, rest = found.decode(errors="replace").partition(" ")
    process, _, place = rest.partition(" ")
    return identity, process, place


def _away(error: Exception) -> RedisAway:
    return RedisAway(f"{type(error).__name__}: {error}", reaction_to(text_of(error)))


def _parse_last(words: Sequence[bytes]) -> dict[str, dict[str, int]]:
    """`{ring}:{channel}` and seq in turn; returned by ring."""
    found: dict[str, dict[str, int]] = {}
    for name, seq in zip(words[::2], words[1::2], strict=True):
        ring, _, channel = name.decode(errors="replace").partition(":")
        if seq.isdigit():
            found.setdefault(ring, {})[channel] = int(seq)
    return found


def _parse_cursor(value: bytes | None, last: Mapping[str, int]) -> Cursor | None:
    """`{epoch}:{seq}`; something else was not written by us and says nothing."""
    if value is None:
        return None
    epoch, _, seq = value.partition(b":")
    if not (epoch.isdigit() and seq.isdigit()):
        log.get().warning("redis_cursor_unreadable", key=CURSOR_KEY, value=value[:64])
        return None
    return Cursor(int(epoch), int(seq), last)
