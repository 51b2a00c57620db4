"""Every error of Redis has its stated consequence, and none of them ends the publisher."""

import pytest
import redis

from daemon.sinks.redis_errors import REACTIONS, Reaction, reaction_to, text_of


@pytest.mark.requirement("F56")
@pytest.mark.parametrize(
    ("error", "reaction"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", Reaction.RETRY),
        ("MISCONF Errors writing to the AOF file: No space left on device", Reaction.RETRY),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist", Reaction.RETRY),
        ("READONLY You can't write against a read only replica.", Reaction.RETRY),
        ("LOADING Redis is loading the dataset in memory", Reaction.RETRY),
        ("MASTERDOWN Link with MASTER is down", Reaction.RETRY),
        ("ERR max number of clients reached", Reaction.RETRY),
        ("EXECABORT Transaction discarded because of previous errors.", Reaction.RETRY),
        ("NOAUTH Authentication required.", Reaction.WAIT),
        ("WRONGPASS invalid username-password pair or user is disabled.", Reaction.WAIT),
        ("NOPERM User default has no permissions to run the 'publish' command", Reaction.WAIT),
        ("MOVED 3999 127.0.0.1:6381", Reaction.WAIT),
        ("ERR DB index is out of range", Reaction.WAIT),
        ("ERR unknown command 'XADD'", Reaction.WAIT),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Reaction.DROP),
        ("SOMETHING nobody has seen", Reaction.RETRY),
    ],
)
def test_what_follows_an_error_is_known_by_its_first_word(error: str, reaction: Reaction) -> None:
    assert reaction_to(error) is reaction


def test_no_prefix_is_hidden_by_one_before_it() -> None:
    assert all(reaction_to(prefix) is reaction for prefix, reaction in REACTIONS)


def test_the_word_that_redis_py_takes_away_is_put_back() -> None:
    assert text_of(redis.AuthenticationError("invalid password", status_code="WRONGPASS")) == (
        "WRONGPASS invalid password"
    )
    assert text_of(redis.ConnectionError("Connection refused")) == "Connection refused"
    assert text_of(OSError("broken")) == "broken"
