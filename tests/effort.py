"""How hard tests look: `make test` within its ten minutes, `make nightly` ten times as long."""

import os

IS_NIGHTLY = os.environ.get("SISE_TESTS") == "nightly"
NIGHTLY_FACTOR = 10


def examples(count: int, *, nightly: int | None = None) -> int:
    """Return how many examples a property is tried with that *count* are enough for by day.

    nightly: how many by night, if that is not as many times more as for most.
    """
    if not IS_NIGHTLY:
        return count
    return count * NIGHTLY_FACTOR if nightly is None else nightly
