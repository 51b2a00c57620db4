"""Are the servers ours, and of our version? Asked before any process of the daemon starts, and any session is opened.

    python -m daemon.sinks.boot_check < question

A process of its own, so that the supervisor need not load the drivers. A server that is away, or full, is no reason not
to start: the writer and the publisher ask again when it is back, and store or publish nothing on one that is another's.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from daemon import log
from daemon.config import Config, Database, Redis
from daemon.errors import ConfigError, Refused
from daemon.identity import LEASE_S, Owner

CONNECT_TIMEOUT_S = 3
TIMEOUT_S = 15.0  # a machine that is this slow is not made to wait longer
LOOK_INTERVAL_S = 2.0
MARGIN_S = 2.0  # ages are whole seconds, and the answer takes a while to come: less than this is no renewal


class Question(msgspec.Struct, frozen=True):
    """What is asked. It holds secrets: never print or log it."""

    database: Database
    redis: Redis
    owner: Owner


class Answer(msgspec.Struct, frozen=True):
    """Empty texts: nothing is known that forbids the start."""

    config: str = ""  # no start of this version can work
    server: str = ""  # the first one that is somebody else's
    refused: str = ""  # who has it
    age_s: int = 0  # since when nothing was seen of that one


def check_servers(config: Config, owner: Owner, *, sleep: Callable[[float], object] = time.sleep) -> None:
    """Make the servers those of *owner*, as far as they answer.

    An owner that does not renew is dead: it is waited for until it expires, LEASE_S at most. Raises Refused as soon as
    the daemon of another data directory is seen alive, ConfigError if the tables are those of another version of Sise.
    """
    question = Question(config.database, config.redis, owner)
    answer = _ask(question)
    if answer.refused:
        log.get().warning("waiting_for_owner", reason=answer.refused, at_most_s=max(0, LEASE_S - answer.age_s))
    first, since_s = answer, time.monotonic()
    while answer.refused:
        sleep(LOOK_INTERVAL_S)
        answer = _ask(question)
        if answer.server != first.server:
            first, since_s = answer, time.monotonic()
        elif answer.refused and answer.age_s < first.age_s + (time.monotonic() - since_s) - MARGIN_S:
            raise Refused(answer.refused)
    if answer.config:
        raise ConfigError(answer.config)


def _ask(question: Question) -> Answer:
    words = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours
            words, input=msgspec.json.encode(question), capture_output=True, timeout=TIMEOUT_S, check=True
        )
        return msgspec.json.decode(done.stdout, type=Answer)
    except (subprocess.SubprocessError, OSError, msgspec.DecodeError) as exc:
        log.get().info("servers_not_checked", error=type(exc).__name__)
        return Answer()


def _answer(question: Question) -> Answer:
    import psycopg  # noqa: PLC0415 - not for who asks

    from daemon.sinks import owner, schema  # noqa: PLC0415
    from daemon.sinks.redis_link import RedisAway, RedisLink, RedisOwned  # noqa: PLC0415

    try:
        with psycopg.connect(
            question.database.dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=None,
            application_name="sise boot check",
        ) as connection:  # fmt: skip
            schema.check_version(connection)
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '3s'")
                owner.take(connection, question.owner)
    except ConfigError as exc:
        return Answer(config=str(exc))
    except owner.OwnedByAnother as exc:
        return Answer(server="database", refused=str(exc), age_s=exc.age_s)
    except psycopg.Error:
        pass
    try:
        link = RedisLink(msgspec.structs.replace(question.redis, timeout_s=CONNECT_TIMEOUT_S), question.owner)
        link.connect([0])
        link.close()
    except RedisOwned as exc:
        return Answer(server="redis", refused=str(exc), age_s=exc.age_s)
    except RedisAway:
        pass
    return Answer()


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_answer(msgspec.json.decode(sys.stdin.buffer.read(), type=Question))))
