"""scan.pxd: text fields to exact values, and separators found, without leaving the frame."""

import datetime
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_pipeline.parse_kis import (
    probe_decimal,
    probe_decimals,
    probe_hhmmss,
    probe_integers,
    probe_separators,
    probe_symbol,
    probe_yyyymmdd,
)
from tests.reference import kis as twin

pytestmark = pytest.mark.requirement("SCH-01")

EPOCH = datetime.date(1970, 1, 1)
# In front of a field: nothing, or bytes that a careless eight-byte load would take for digits of it.
PREFIXES = (b"", b"9", b"0|H0STCNT0|001|", b"99999999999999999999")

number_like = st.text(alphabet="0123456789.+-eENan ()", max_size=24) | st.decimals(allow_nan=False).map(
    lambda value: f"{value:f}"
)


def decimal_of(text: str, prefix: bytes = b"") -> Decimal | None:
    frame = prefix + text.encode() + b"7"  # a digit behind the field too
    found = probe_decimal(frame, len(prefix), len(prefix) + len(text))
    return None if found is None else Decimal(found[0]).scaleb(-found[1])


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("text", "mantissa", "scale"),
    [
        ("0", 0, 0),
        ("7", 7, 0),
        ("71200", 71200, 0),
        ("12345678", 12345678, 0),
        ("123456789", 123456789, 0),
        ("0000071200", 71200, 0),
        ("0.42", 42, 2),
        ("-30.00", -3000, 2),
        ("+0.47", 47, 2),
        (".5", 5, 1),
        ("-0", 0, 0),
        ("9223372036854775807", 2**63 - 1, 0),
        ("-9223372036854775807", -(2**63) + 1, 0),
        ("0.000000000000000001", 1, 18),
        ("9.223372036854775807", 2**63 - 1, 18),
        ("0" * 40 + "12", 12, 0),
        ("1234.5600", 12345600, 4),
        ("-1234.5600", -12345600, 4),
        ("+123456789.012345", 123456789012345, 6),
        (".000000000000001", 1, 15),
        ("-00000000000000.5", -5, 1),
        ("12345678.9", 123456789, 1),
        ("1234567890123.45", 123456789012345, 2),
    ],
)
def test_a_decimal_is_read_exactly_as_it_is_written(text: str, mantissa: int, scale: int, prefix: bytes) -> None:
    assert probe_decimal(prefix + text.encode() + b"7", len(prefix), len(prefix) + len(text)) == (mantissa, scale)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "text",
    [
        "", "(null)", "NaN", "nan", "Infinity", "1e5", "1E5", "0x10", " 1", "1 ", "1_000", "1,000", "-", "+", ".", "-.",
        "+-1", "--1", "1-", "1.", "1.2.3", "7x200", "1/2", "1:2", "9223372036854775808", "-9223372036854775808",
        "99999999999999999999999", "0.0000000000000000001", "1.0000000000000000000", "1234.5678.9", "123456789.",
        "-123456789.", "12345.67890.1234", "+-12345678", "123456789012345-", "1234567,89",
    ],
)  # fmt: skip
def test_what_is_not_a_plain_decimal_that_fits_is_refused(text: str, prefix: bytes) -> None:
    assert decimal_of(text, prefix) is None


@pytest.mark.parametrize("byte", [b for b in range(256) if not chr(b).isascii() or not chr(b).isdigit()])
def test_a_stray_byte_anywhere_in_a_short_number_refuses_it(byte: int) -> None:
    for at in range(8):
        text = bytearray(b"12345678")
        text[at] = byte
        if bytes([byte]) in b"+-" and at == 0:
            continue
        if byte == ord(".") and at < 7:
            continue
        frame = b"0|H0STCNT0|001|" + bytes(text)
        assert probe_decimal(frame, 15, 23) is None


@pytest.mark.parametrize("byte", [b for b in range(256) if not chr(b).isascii() or not chr(b).isdigit()])
@pytest.mark.parametrize("digits", [b"1234567890123456", b"123456789.123"])
def test_a_stray_byte_anywhere_in_a_long_number_refuses_it(byte: int, digits: bytes) -> None:
    for at in range(len(digits)):
        text = bytearray(digits)
        text[at] = byte
        frame = b"0|H0STCNT0|001|" + bytes(text)
        expected = twin.parse_decimal(text.decode("latin-1"))
        found = probe_decimal(frame, 15, 15 + len(text))
        assert (None if found is None else Decimal(found[0]).scaleb(-found[1])) == expected


number_shaped = st.from_regex(r"[+-]?[0-9]{0,18}(\.[0-9]{0,18})?", fullmatch=True)


@settings(deadline=None)
@given(number_like | number_shaped, st.sampled_from(PREFIXES))
def test_decimals_are_those_of_the_reference(text: str, prefix: bytes) -> None:
    assert decimal_of(text, prefix) == twin.parse_decimal(text)


@pytest.mark.requirement("EDGE-01")
def test_every_day_of_the_range_exists_and_no_other_day_does() -> None:
    day = EPOCH
    days = 0
    while day.year <= 2261:
        assert probe_yyyymmdd(f"{day:%Y%m%d}".encode(), 0, 8) == days
        day += datetime.timedelta(days=1)
        days += 1
    for text in (
        b"19691231",
        b"22620101",
        b"20261340",
        b"20260229",
        b"21000229",
        b"20240230",
        b"20261100",
        b"20260431",
    ):
        assert probe_yyyymmdd(text, 0, 8) is None


@settings(deadline=None)
@given(st.text(alphabet="0123456789 x", min_size=6, max_size=9))
def test_dates_are_those_of_the_reference(text: str) -> None:
    expected = twin.parse_date(text)
    assert probe_yyyymmdd(b"x" + text.encode(), 1, 1 + len(text)) == (expected and (expected - EPOCH).days)


def test_every_second_of_a_day_is_read_and_nothing_behind_midnight() -> None:
    for seconds in range(0, 86400, 61):
        text = f"{seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}".encode()
        assert probe_hhmmss(text, 0, 6) == seconds
    for text in (b"240000", b"236000", b"235960", b"256199", b"-10000", b"12 000", b"9300a0"):
        assert probe_hhmmss(text, 0, 6) is None
    for text in (b"", b"93000", b"0930000"):
        assert probe_hhmmss(text, 0, len(text)) is None


@pytest.mark.parametrize(
    "symbol", ["005930", "Q500001", "0000D0", "A", "OESH23 C3900", "X" * 24, "BRK/B", "~!#$%&'()*+,-."]
)
def test_a_printable_symbol_is_kept_and_padded(symbol: str) -> None:
    assert probe_symbol(symbol.encode()) == symbol.encode().ljust(24, b"\0")


@pytest.mark.parametrize(
    "symbol",
    [b"", b" ", b" A", b"A ", b"X" * 25, b'A"B', b"A\\B", b"A^B", b"A|B", b"A\0", b"A\tB", b"\x7f", b"A\xb0", b"\xff"],
)
def test_a_symbol_that_could_break_a_message_is_refused(symbol: bytes) -> None:
    assert probe_symbol(symbol) is None


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"^", b"0", b"\xde", b"\x5f", b"\xff", b"\0", b"^^^^", b"x" * 61]), max_size=80).map(
        b"".join
    )
)
def test_separators_are_found_wherever_they_are(text: bytes) -> None:
    expected = [at + 1 for at, byte in enumerate(text) if byte == ord("^")]

    assert probe_separators(text, ord("^")) == [expected, expected, expected]


def test_every_byte_may_be_a_separator() -> None:
    text = b"^" * 9001

    for found in probe_separators(text, ord("^")):
        assert found == list(range(1, 9002))


@settings(deadline=None)
@given(
    st.lists(st.text("0123456789.+-/: ", max_size=10), min_size=1, max_size=60),
    st.data(),
)
def test_plain_integers_are_read_many_at_once(fields: list[str], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(fields) - 1), max_size=60))
    frame = "01|HEADER" + "^".join(fields)
    begins = [0]
    for field in fields:
        begins.append(begins[-1] + len(field) + 1)
    expected = [int(field) if field.isdigit() and len(field) <= 8 else None for field in (fields[n] for n in numbers)]

    assert probe_integers(frame.encode(), begins, numbers) == [expected, expected]


@settings(deadline=None)
@given(
    st.lists(
        st.text("0123456789.+-/: ", max_size=11) | st.from_regex(r"[0-9]{0,9}\.[0-9]{0,9}", fullmatch=True),
        min_size=1,
        max_size=60,
    ),
    st.data(),
)
def test_plain_decimals_are_read_many_at_once(fields: list[str], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(fields) - 1), max_size=60))
    begins = [0]
    for field in fields:
        begins.append(begins[-1] + len(field) + 1)
    expected = []
    for field in (fields[number] for number in numbers):
        whole, _, decimals = field.partition(".")
        is_plain = re.fullmatch(r"[0-9]+(\.[0-9]+)?", field) and len(whole + decimals) <= 8
        expected.append((int(whole + decimals), len(decimals)) if is_plain else None)

    # a digit and a point in front of the first field: they are not part of it
    assert probe_decimals(b"0|HEADER." + "^".join(fields).encode(), begins, numbers) == [expected, expected]
    assert probe_decimals(b"0|HEADER9" + "^".join(fields).encode(), begins, numbers) == [expected, expected]
