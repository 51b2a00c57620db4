"""How hard tests look: `make test` within its ten minutes, `make nightly` ten times as long."""

import os

IS_NIGHTLY = os.environ.get("SISE_TESTS") == "nightly"
NIGHTLY_FACTOR = 10


def examples(count: int) -> int:
    """Return how many examples a property is tried with that *count* are enough for by day."""
    return count * NIGHTLY_FACTOR if IS_NIGHTLY else count
