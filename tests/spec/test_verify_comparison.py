"""What `sise verify` calls a difference."""

from datetime import UTC, datetime

import pytest

from daemon.sinks.counts import Difference, Key, Window, compare
from daemon.sinks.verify import GapSum, Report

KEY = Key(100, "kr", "005930", "trade")
NEVER = 1_000_000


def differences(
    *,
    received: int = 0,
    stored: int = 0,
    published: int = 0,
    still_open: int = 0,
    published_from: int = 0,
    growing_from: int = NEVER,
    published_before: int = 0,
    duplicated: int = 0,
    refused: int = 0,
    replayed: int = 0,
) -> list[Difference]:
    def counts(count: int) -> dict[Key, int]:
        return {KEY: count} if count else {}

    return list(
        compare(
            Window(
                counts(received),
                counts(stored),
                counts(still_open),
                counts(published),
                published_from,
                growing_from,
                counts(published_before),
                counts(duplicated),
                counts(refused),
                counts(replayed),
            )
        )
    )


def test_equal_counts_are_no_difference() -> None:
    assert differences(received=5, stored=5, published=5) == []


@pytest.mark.requirement("E2E-OBS-01")
@pytest.mark.parametrize(("received", "stored", "published"), [(5, 4, 5), (5, 6, 5), (5, 5, 4), (5, 5, 6), (0, 1, 1)])
def test_one_record_more_or_less_is_a_difference_that_names_the_symbol(
    received: int, stored: int, published: int
) -> None:
    found = differences(received=received, stored=stored, published=published)

    assert found == [Difference(KEY, received, stored, published)]


@pytest.mark.requirement("E2E-OBS-01")
def test_what_the_database_refused_is_accounted_for_and_one_more_or_less_is_not() -> None:
    assert differences(received=5, stored=3, refused=2, published=5) == []
    assert differences(received=5, stored=3, refused=1, published=5) == [Difference(KEY, 5, 3, 5, refused=1)]
    assert differences(received=5, stored=4, refused=2, published=5) == [Difference(KEY, 5, 4, 5, refused=2)]
    assert differences(refused=1) == [Difference(KEY, 0, 0, 0, refused=1)]


@pytest.mark.requirement("E2E-OBS-01")
def test_rows_that_came_out_of_quarantine_are_expected_in_the_tables_and_not_on_redis() -> None:
    assert differences(received=5, replayed=2, stored=7, published=5) == []
    assert differences(replayed=2, stored=2) == []
    assert differences(received=5, replayed=2, stored=7, published=7) == [Difference(KEY, 5, 7, 7, replayed=2)]
    assert differences(replayed=2, stored=1) == [Difference(KEY, 0, 1, 0, replayed=2)]


def test_what_redis_no_longer_counts_is_not_compared() -> None:
    assert differences(received=5, stored=5, published=0, published_from=101) == []
    assert differences(received=5, stored=4, published=0, published_from=101) == [Difference(KEY, 5, 4, None)]


def test_a_minute_that_still_grows_may_have_published_more_than_the_ledger_covers_but_not_less() -> None:
    assert differences(received=5, stored=5, published=9, growing_from=100) == []
    assert differences(received=5, stored=5, published=9, growing_from=101) != []
    assert differences(received=5, stored=5, published=4, growing_from=100) != []


@pytest.mark.requirement("E2E-OBS-01")
def test_what_was_published_before_the_rows_were_counted_must_be_among_them() -> None:
    assert differences(received=5, stored=5, published=6, published_before=5, growing_from=100) == []
    assert differences(received=5, stored=5, published=6, published_before=6, growing_from=100) != []
    assert differences(received=5, stored=5, published=6, published_before=6, still_open=1, growing_from=100) == []


@pytest.mark.requirement("E2E-OBS-01")
def test_what_only_redis_knows_is_a_difference_once_its_minute_is_closed() -> None:
    assert differences(published=3) == [Difference(KEY, 0, 0, 3)]
    assert differences(published=3, still_open=2) == [Difference(KEY, 0, 0, 3)]
    assert differences(published=3, still_open=3) == []
    assert differences(published=3, growing_from=100) == []


@pytest.mark.requirement("E2E-OBS-01")
def test_a_duplicate_is_named_although_the_counts_match() -> None:
    assert differences(received=5, stored=5, published=5, duplicated=1) == [Difference(KEY, 5, 5, 5, 1)]


def test_open_rows_may_be_published_or_not() -> None:
    assert differences(received=5, stored=5, published=7, still_open=2) == []
    assert differences(received=5, stored=5, published=5, still_open=2) == []
    assert differences(received=5, stored=5, published=4, still_open=2) != []


def test_a_report_is_complete_only_without_differences_duplicates_and_unknowns() -> None:
    assert Report().is_complete
    assert not Report(differences=[Difference(KEY, 1, 0, None)]).is_complete
    assert not Report(duplicated=1).is_complete
    assert not Report(redis_problem="away").is_complete


def test_a_report_lists_gaps_up_to_a_limit_and_stays_complete() -> None:
    moment = datetime(2026, 11, 20, 1, 2, 3, tzinfo=UTC)
    gaps = [
        GapSum("kr", f"{n:06}", None, "event", "connection lost", 1, 1234.5, 12e9, moment, moment) for n in range(60)
    ]
    report = Report(gap_sums=gaps)

    text = report.as_text()

    assert (
        "  kr 000049 event: connection lost: 1 x, 1,234.500 s, 12,000,000,000 shares missing"
        " (2026-11-20 01:02:03Z to 2026-11-20 01:02:03Z)" in text
    )
    assert "000050" not in text
    assert "... and 10 more; --json lists them all" in text
    assert report.is_complete
    assert len(report.as_dict()["feed_gaps"]) == 60


def test_a_report_names_minute_symbol_and_counts() -> None:
    report = Report(differences=[Difference(KEY, 5, 4, None)] * 60)

    text = report.as_text()

    assert "1970-01-01 01:40Z kr 005930 trade: received 5 stored 4 published -" in text
    assert "... and 10 more differences" in text
    assert text.endswith("NOT complete")
    assert report.as_dict()["differences"][0] == {
        "minute": "1970-01-01T01:40:00+00:00",
        "market": "kr",
        "symbol": "005930",
        "kind": "trade",
        "received": 5,
        "stored": 4,
        "published": None,
        "duplicated": 0,
        "refused": 0,
        "replayed": 0,
    }
