"""KIS layouts by width, alternatives and markets, and overseas times, whose offset comes with the record."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from native_pipeline.parse_kis import KisParser
from tests.reference import kis as twin
from tests.reference.kis import Reason
from tests.reference.native_kis import (
    FIELDS,
    NOON,
    NS_PER_S,
    VENUE,
    Native,
    frame_of,
    kst_ns,
    sample,
)

KR, US = 1, 2
pytestmark = pytest.mark.requirement("SCH-01")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("kis") / "test.ring")


def test_a_record_of_one_field_more_or_less_than_allowed_is_quarantined(native: Native) -> None:
    for tr, row in twin.LAYOUTS.items():
        smallest = row.get("narrow", row)["min_width"]
        for width in (smallest - 1, row["max_width"] + 1):
            (record,) = native.parse(frame_of(tr, (FIELDS[tr] + ["9"] * 127)[:width])) or []

            assert (record["reason"], record["detail"]) == (Reason.BAD_WIDTH, width)


@pytest.mark.requirement("F14")
def test_two_records_with_a_count_of_one_never_pass_as_one(native: Native) -> None:
    for tr, row in twin.LAYOUTS.items():
        narrow = row.get("narrow", row)
        for width in {row["min_width"], row["max_width"], narrow["min_width"], narrow["max_width"]}:
            two = (FIELDS[tr] + ["9"] * 127)[:width] * 2
            (record,) = native.parse(frame_of(tr, two)) or []

            assert record["reason"] == Reason.BAD_WIDTH, tr


def test_stock_futures_books_of_38_fields_have_the_five_levels_of_index_futures(native: Native) -> None:
    (expected,) = native.parse(frame_of("H0IFASP0", FIELDS["H0IFASP0"])) or []

    (record,) = native.parse(frame_of("H0ZFASP0", FIELDS["H0IFASP0"])) or []

    assert record == expected


def test_stock_option_books_of_38_fields_have_the_first_five_levels(native: Native) -> None:
    (whole,) = native.parse(frame_of("H0ZOASP0", FIELDS["H0ZOASP0"])) or []

    (record,) = native.parse(frame_of("H0ZOASP0", FIELDS["H0ZOASP0"][:38])) or []

    for side in ("asks", "bids"):
        assert record[side] == whole[side][:5] + [(Decimal(0), Decimal(0))] * 5


def test_an_alternative_layout_is_used_when_it_is_chosen(native: Native, tmp_path: Path) -> None:
    other = Native(tmp_path / "other.ring", layouts=["H0ZFASP0:appended", "HDFFF020:utc"])
    (expected,) = native.parse(frame_of("H0ZOASP0", FIELDS["H0ZOASP0"])) or []
    (kst,) = native.parse(frame_of("HDFFF020", FIELDS["HDFFF020"])) or []

    (book,) = other.parse(frame_of("H0ZFASP0", FIELDS["H0ZOASP0"])) or []
    (trade,) = other.parse(frame_of("HDFFF020", FIELDS["HDFFF020"])) or []

    assert book == expected
    assert (trade["exchange_ns"] - kst["exchange_ns"], trade["utc_offset_min"]) == (9 * 3600 * NS_PER_S, 0)


def test_an_alternative_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'H0ZFASP0:other' is not known; known alternatives: .*H0ZFASP0:appended"):
        KisParser(venue=VENUE, layouts=["H0ZFASP0:other"])


def test_a_market_that_is_given_is_stamped_on_every_record(native: Native) -> None:
    parser = KisParser(venue=VENUE, market=3)
    for frame in (sample("data/HDFSCNT0_single.txt"), b"", sample("malformed/zero_price.txt")):
        parser.parse(native.ring, frame, NOON)

    assert [record["market"] for record in native.read()] == [3, 3, 3]


def test_quarantine_has_the_market_of_its_tr_and_none_where_the_tr_is_unknown(native: Native) -> None:
    frames = {b"0|HDFSCNT0|001|x": US, b"0|H0STCNT0|000|x": KR, b"0|H0XXXXX0|001|x": 0, b"x": 0}
    for frame, market in frames.items():
        (record,) = native.parse(frame) or []

        assert record["market"] == market


def test_encrypted_frames_are_quarantined_or_handed_over(native: Native) -> None:
    frame = sample("data/H0STCNI0_encrypted.txt")
    taking = KisParser(venue=VENUE, hands_over_encrypted=True)

    assert [record["reason"] for record in native.parse(frame) or []] == [Reason.ENCRYPTED]
    assert taking.parse(native.ring, frame, NOON) == -1
    assert taking.parse(native.ring, b"1|H0STCNI0", NOON) == 1
    assert [record["reason"] for record in native.read()] == [Reason.MALFORMED_HEADER]


# ---- overseas: the offset comes with the record ----------------------------------------------------------------------


def overseas(local: str, kst: str) -> bytes:
    day, clock = local.split()
    kst_day, kst_clock = kst.split()
    return frame_of("HDFSCNT0", FIELDS["HDFSCNT0"], date=day, time=clock, kst_date=kst_day, kst_time=kst_clock)


@pytest.mark.requirement("EDGE-01")
@pytest.mark.parametrize(
    ("local", "kst", "utc", "offset_min"),
    [
        ("20261119 103015", "20261120 003015", "2026-11-19T15:30:15", -300),  # New York in winter
        ("20260710 103015", "20260710 233015", "2026-07-10T14:30:15", -240),  # in summer
        ("20260307 155959", "20260308 055959", "2026-03-07T20:59:59", -300),  # last day of winter time
        ("20260308 180000", "20260309 070000", "2026-03-08T22:00:00", -240),  # first day of summer time
        ("20261101 013000", "20261101 143000", "2026-11-01T05:30:00", -240),  # the hour that comes twice, first
        ("20261101 013000", "20261101 153000", "2026-11-01T06:30:00", -300),  # and second
        ("20261231 200000", "20270101 100000", "2027-01-01T01:00:00", -300),  # day session: another year in Korea
        ("20261119 235959", "20261120 135959", "2026-11-20T04:59:59", -300),
        ("20261120 000000", "20261120 140000", "2026-11-20T05:00:00", -300),
        ("20261120 103015", "20261120 113013", "2026-11-20T02:30:15", 480),  # Hong Kong, two seconds apart
        ("20261120 103015", "20261120 113722", "2026-11-20T02:30:15", 480),
        ("20261120 103015", "20261120 103015", "2026-11-20T01:30:15", 540),  # Tokyo
        ("20261120 080000", "20261120 103000", "2026-11-20T01:30:00", 390),
        ("20261120 150000", "20261120 100000", "2026-11-20T01:00:00", 840),
        ("20261119 110000", "20261120 100000", "2026-11-20T01:00:00", -840),
    ],
)
def test_an_overseas_time_has_the_offset_that_its_korean_time_tells(
    native: Native, local: str, kst: str, utc: str, offset_min: int
) -> None:
    (record,) = native.parse(overseas(local, kst)) or []

    assert record["utc_offset_min"] == offset_min
    assert record["exchange_ns"] == kst_ns(utc) + 9 * 3600 * NS_PER_S


@pytest.mark.requirement("EDGE-01")
@pytest.mark.parametrize(
    ("local", "kst", "reason", "role"),
    [
        ("20261119 103015", "20261121 003015", Reason.BAD_DATE, "kst_date"),
        ("20261120 153000", "20261120 100000", Reason.BAD_DATE, "kst_date"),
        ("20261119 103000", "20261120 100000", Reason.BAD_DATE, "kst_date"),
        ("19700101 103000", "22611231 100000", Reason.BAD_DATE, "kst_date"),
        ("20261119 103015", "20261131 003015", Reason.BAD_DATE, "kst_date"),
        ("20261119 103015", "20261120 240000", Reason.BAD_TIME, "kst_time"),
        ("20261119 246015", "20261120 003015", Reason.BAD_TIME, "time"),
        ("20260230 103015", "20261120 003015", Reason.BAD_DATE, "date"),
    ],
)
def test_an_overseas_time_that_fits_no_place_on_earth_is_quarantined(
    native: Native, local: str, kst: str, reason: Reason, role: str
) -> None:
    (record,) = native.parse(overseas(local, kst)) or []

    assert (record["reason"], record["detail"]) == (reason, twin.LAYOUTS["HDFSCNT0"][role])


@pytest.mark.parametrize("key", ["AAPL", "XNASAAPL", "DNASMSFT", "DNASAAPLX", "DNASAAP", ""])
@pytest.mark.parametrize("tr", ["HDFSCNT0", "HDFSASP0"])
def test_an_overseas_record_without_its_realtime_key_is_shifted_and_refused(native: Native, tr: str, key: str) -> None:
    (record,) = native.parse(frame_of(tr, FIELDS[tr], realtime_key=key)) or []

    assert (record["reason"], record["detail"]) == (Reason.BAD_SYMBOL, 0)


@pytest.mark.parametrize(("code", "side"), [("2", "buy"), ("5", "sell"), ("1", None), ("", None)])
def test_overseas_futures_have_their_own_codes_for_the_aggressor(native: Native, code: str, side: str | None) -> None:
    (record,) = native.parse(frame_of("HDFFF020", FIELDS["HDFFF020"], side=code)) or []

    assert record["side"] == side


@pytest.mark.parametrize(
    ("text", "nanoseconds"), [("4312", 431_200_000), ("0001", 100_000), ("", 0), ("12", 0), ("x312", 0)]
)
def test_a_fraction_of_a_second_is_added_if_it_is_one(native: Native, text: str, nanoseconds: int) -> None:
    (record,) = native.parse(frame_of("HDFFF020", FIELDS["HDFFF020"], subsecond=text)) or []

    assert record["exchange_ns"] == kst_ns("2026-11-20T10:30:20") + nanoseconds


# ---- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "(null)", "0", "0.00"])
def test_an_event_without_a_price_is_an_event(native: Native, text: str) -> None:
    for tr in ("H0STANC0", "H0UPCNT0", "H0STNAV0"):
        (record,) = native.parse(frame_of(tr, FIELDS[tr], price=text)) or []

        assert (record["kind"], record["price"]) == ("event", None)
