"""The Kiwoom parser does what its Python twin does, with any bytes, and never reads a byte outside the message."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.reference import kiwoom as twin
from tests.reference.native_kis import NOON, exact
from tests.reference.native_kiwoom import Native, assert_same, named, reference, sample
from tests.spec.test_parse_kis_against_reference import Fenced, receipts, relaxed

pytestmark = pytest.mark.requirement("SCH-01")

ENTRIES: list[dict[str, Any]] = [
    entry for param in named("data") for entry in json.loads(sample(param.values[0]["file"]))["data"]
]
FIDS = sorted({fid for entry in ENTRIES for fid in entry["values"]} | {"36", "38", "6044", "9001", "041", "4", "12345"})
MEMBERS = ["type", "item", "name", "values", "trnm", "data", "Type"]

Members = list[tuple[str, Any]]  # an object whose keys may repeat


class Pairs(list[Any]):
    """An object as a list of (key, value)."""


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("kiwoom") / "test.ring")


# ---- messages --------------------------------------------------------------------------------------------------------

odd_value = (
    st.sampled_from(
        ["", "0", "-0", "+0", "-1", "+1", "1", "5", "+", "-", "--5", "+-5", "NaN", "1e3", ".5", "5.", "71200.5", " 1",
         "1.0000000000000000001", "9223372036854775807", "-9223372036854775807", "9223372036854775808", "235959",
         "240000", "888888", "090000", "-00012.50", "005930", "005930_AL", "_NX", "0B", "0D", "한국", 'a"b', "a\\b",
         "\n", "/", "\x7f", "X" * 24, "X" * 25, "X" * 27 + "_NX", "12345678", "-1234567", "123456789012345"]
    )
    | st.integers(-(10**20), 10**20).map(str)
    | st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str)
    | st.text(max_size=9)
    | st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.recursive(st.just("x"), lambda inner: st.lists(inner, max_size=2) | st.lists(inner, max_size=1).map(
        lambda values: Pairs((str(number), value) for number, value in enumerate(values))), max_leaves=4)
)  # fmt: skip


@st.composite
def entries(draw: st.DrawFn) -> Any:
    """One entry, often with a few odd values, sometimes something else altogether."""
    if draw(st.integers(0, 19)) == 7:
        return draw(odd_value)
    template = draw(st.sampled_from(ENTRIES) | st.sampled_from([ENTRIES[0], ENTRIES[3]]))
    values = list(template["values"].items())
    for fid in draw(st.lists(st.sampled_from([fid for fid, _ in values]) | st.sampled_from(FIDS), max_size=3)):
        values = [pair for pair in values if pair[0] != fid or draw(st.booleans())]
        if draw(st.integers(0, 4)):
            values.append((fid, draw(odd_value)))
    if draw(st.booleans()):
        values = draw(st.permutations(values))
    wrapped: Any = Pairs(values)
    if draw(st.integers(0, 19)) == 7:
        wrapped = draw(st.sampled_from([[wrapped], [wrapped, wrapped], [], None, [[wrapped]], "values"]))
    code = template["type"] if draw(st.integers(0, 9)) != 7 else draw(st.sampled_from([*twin.TYPES, "0b", "9Z", ""]))
    item = template["item"] if draw(st.integers(0, 9)) != 7 else draw(odd_value)
    members: Members = [("type", code), ("name", template["name"]), ("item", item), ("values", wrapped)]
    for key in draw(st.lists(st.sampled_from(MEMBERS), max_size=1)) if draw(st.integers(0, 4)) == 3 else ():
        members.append((key, draw(odd_value)))
    return Pairs(draw(st.permutations(members)))


def written(value: Any, rng: random.Random, style: int) -> str:
    """*value* as JSON. style 0: as short as can be; 1: with white space; 2: with escapes too."""

    def space() -> str:
        return rng.choice(["", "", " ", "\n", "\t\r "]) if style else ""

    if isinstance(value, str) and style == 2 and rng.random() < 0.5:
        return '"' + "".join(escaped(char, rng) for char in value) + '"'
    if isinstance(value, Pairs):
        pairs = (f"{space()}{written(key, rng, style)}{space()}:{space()}{written(item, rng, style)}{space()}"
                 for key, item in value)  # fmt: skip
        return "{" + (",".join(pairs) or space()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(space() + written(item, rng, style) + space() for item in value) or space()) + "]"
    return json.dumps(value, ensure_ascii=bool(style) and rng.random() < 0.5)


def escaped(char: str, rng: random.Random) -> str:
    if char == "/" and rng.random() < 0.5:
        return r"\/"
    if rng.random() < 0.5 or char in '"\\' or char < " ":
        units = char.encode("utf-16-be", "surrogatepass")
        digits = rng.choice(["04x", "04X"])
        return "".join(rf"\u{int.from_bytes(units[at : at + 2], 'big'):{digits}}" for at in range(0, len(units), 2))
    return char


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    found = draw(st.lists(entries(), min_size=1, max_size=4))
    data = found if draw(st.integers(0, 29)) != 7 else draw(odd_value)
    members: Members = [("trnm", "REAL"), ("data", data)]
    for key in draw(st.lists(st.sampled_from(["trnm", "data", "x", "y"]), max_size=1)) if draw(st.booleans()) else ():
        members.append((key, draw(st.just("REAL") | odd_value)))
    message = written(Pairs(draw(st.permutations(members))), draw(st.randoms(use_true_random=False)),
                      draw(st.sampled_from([0, 0, 1, 2])))  # fmt: skip
    return message.encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(messages()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(frame)))
        kind = draw(st.sampled_from(("replace", "insert", "delete", "cut")))
        if kind == "insert":
            tokens = [
                b'"',
                b"\\",
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b":",
                b"\\u",
                b"\x00",
                b"\n",
                b" ",
                b"\xff",
                b"1",
                b"e",
            ]
            frame[at:at] = draw(st.sampled_from(tokens) | st.binary(max_size=3))
        elif kind == "cut":
            del frame[at:]
        elif at < len(frame):
            frame[at : at + 1] = draw(st.binary(min_size=1, max_size=1)) if kind == "replace" else b""
    return bytes(frame)


# ---- native and reference agree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", named("data", "control", "malformed", "outbound", "rest"))
def test_native_and_reference_agree_on_every_prefix_of_a_sample(native: Native, entry: dict[str, Any]) -> None:
    frame = sample(entry["file"])
    for size in range(len(frame) + 1):
        assert_same(native, frame[:size])


@relaxed
@given(frame=messages(), recv_ns=receipts)
def test_native_and_reference_agree_on_generated_messages(native: Native, frame: bytes, recv_ns: int) -> None:
    assert_same(native, frame, recv_ns)


@relaxed
@given(frame=damaged())
def test_native_and_reference_agree_on_damaged_messages(native: Native, frame: bytes) -> None:
    assert_same(native, frame)


@relaxed
@given(frame=st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b'{"trnm":"REAL","data":[' + tail),
       is_text=st.booleans())  # fmt: skip
@example(frame=b"", is_text=True)
@example(frame=b" ", is_text=True)
@example(frame=b"{", is_text=True)
@example(frame=b"{}", is_text=True)
@example(frame=b"{}{}", is_text=True)
@example(frame=b'{"', is_text=True)
@example(frame=b'{"trnm"', is_text=True)
@example(frame=b'{"trnm":"REAL"}', is_text=True)
@example(frame=b'{"trnm":"REAL","data":[{}]}\x00', is_text=True)
@example(frame=b'{"trnm":"REAL","data":[{"values":{"10":1}}]}', is_text=True)
@example(frame=b'{"a":-}', is_text=True)
@example(frame=b'{"a":1.}', is_text=True)
@example(frame=b'{"a":1e}', is_text=True)
@example(frame=b'{"a":"\\', is_text=True)
@example(frame=b'{"a":"\\u12', is_text=True)
@example(frame=b"{}", is_text=False)
def test_native_and_reference_agree_on_arbitrary_bytes(native: Native, frame: bytes, is_text: bool) -> None:
    assert_same(native, frame, is_text=is_text)


# ---- it never reads outside the message ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fenced() -> Fenced:
    return Fenced()


def assert_same_between_fences(native: Native, fenced: Fenced, frame: bytes) -> None:
    expected = reference(frame)
    for view in fenced.both_ends(frame):
        result = native.parser.parse_view(native.ring, view, NOON)
        assert exact(native.read()) == exact(expected or [])
        assert result == (-1 if expected is None else len(expected))


@pytest.mark.parametrize("entry", named("data", "malformed"))
def test_no_prefix_of_a_sample_makes_it_read_outside_the_message(
    native: Native, fenced: Fenced, entry: dict[str, Any]
) -> None:
    frame = sample(entry["file"])
    for size in range(len(frame) + 1):
        assert_same_between_fences(native, fenced, frame[:size])


@relaxed
@given(frame=damaged() | st.binary(max_size=100))
def test_no_damaged_message_makes_it_read_outside(native: Native, fenced: Fenced, frame: bytes) -> None:
    assert_same_between_fences(native, fenced, frame)
