"""What an error of Redis means for the publisher: one table, by the word that the error begins with. Pure.

No error ends the publisher: Redis is fan-out, and a role that ends again and again would in the end take the daemon
with it. Whatever cannot be published waits in the rings, and is given up there in the end, counted.
"""

from enum import Enum

import redis


class Reaction(Enum):
    """What follows an error."""

    RETRY = "it passes: the same transaction again, after a growing delay"
    WAIT = "somebody must act: again at the slowest pace, logged as an error"
    DROP = "this command will never work: its messages are counted as dropped, the rest has happened"


# The first prefix that fits. Replication, memory, disk and start-up pass or are repaired without our settings.
REACTIONS: tuple[tuple[str, Reaction], ...] = (
    ("OOM", Reaction.RETRY),  # maxmemory, with noeviction
    ("MISCONF", Reaction.RETRY),  # the server cannot write its append-only file or its snapshot
    ("READONLY", Reaction.RETRY),  # demoted: the next connection may reach the new master
    ("LOADING", Reaction.RETRY),
    ("MASTERDOWN", Reaction.RETRY),
    ("NOREPLICAS", Reaction.RETRY),
    ("BUSY", Reaction.RETRY),
    ("CLUSTERDOWN", Reaction.RETRY),
    ("TRYAGAIN", Reaction.RETRY),
    ("EXECABORT", Reaction.RETRY),
    ("ERR max number of clients", Reaction.RETRY),
    ("NOAUTH", Reaction.WAIT),
    ("WRONGPASS", Reaction.WAIT),
    ("NOPERM", Reaction.WAIT),
    ("DENIED", Reaction.WAIT),  # protected mode
    ("MOVED", Reaction.WAIT),  # a cluster: its slots cannot hold one transaction
    ("ASK", Reaction.WAIT),
    ("CROSSSLOT", Reaction.WAIT),
    ("ERR AUTH", Reaction.WAIT),
    ("ERR Client sent AUTH", Reaction.WAIT),
    ("ERR invalid password", Reaction.WAIT),
    ("ERR DB index", Reaction.WAIT),
    ("ERR unknown command", Reaction.WAIT),
    ("WRONGTYPE", Reaction.DROP),
)


def reaction_to(error: str) -> Reaction:
    """Return what follows *error*, a reply of Redis without its minus sign. What is not known is tried again."""
    return next((reaction for prefix, reaction in REACTIONS if error.startswith(prefix)), Reaction.RETRY)


def text_of(error: Exception) -> str:
    """Return what Redis said, with the first word, which redis-py takes away from some replies."""
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if isinstance(error, redis.RedisError) and code else str(error)
