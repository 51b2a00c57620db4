"""The KIS parser does what its Python twin does, with any bytes, and never reads a byte outside the frame."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from native_pipeline import kis_layouts
from tests.effort import examples
from tests.reference import kis as twin
from tests.reference.native_kis import (
    FIELDS,
    NOON,
    TRADE_FIELDS,
    Native,
    assert_same,
    exact,
    kst_ns,
    named,
    reference,
    sample,
)

pytestmark = pytest.mark.requirement("SCH-01")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(tmp_path_factory.mktemp("kis") / "test.ring")


# ---- native and reference agree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", named("data", "control", "malformed", "encrypted", "outbound", "rest"))
def test_native_and_reference_agree_on_every_prefix_of_a_sample(native: Native, entry: dict[str, Any]) -> None:
    frame = sample(entry["file"])
    for size in range(len(frame) + 1):
        assert_same(native, frame[:size])


odd_field = (
    st.sampled_from(
        ["", "(null)", "0", "-0", "-1", "+1", "1", "5", "3", "A", "D", "E", "NaN", "1e3", ".5", "5.", "71200.5", " 1",
         "1.0000000000000000001", "9223372036854775807", "9223372036854775808", "20240229", "20230229", "235959",
         "240000", "005930", "Q500001", "4312", "20261119", "A|B",
         'A"B', "X" * 24, "X" * 25, "\xb0\xa1\xff", "\0", "1234567890123"]
    )
    | st.integers(-(10**20), 10**20).map(str)
    | st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str)
    | st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=255, exclude_characters="^"), max_size=9)
)  # fmt: skip


@st.composite
def records(draw: st.DrawFn, template: list[str], read: list[int]) -> list[str]:
    fields = list(template)
    anywhere = st.sampled_from(read) | st.integers(0, len(fields) - 1)
    for position, value in draw(st.dictionaries(anywhere, odd_field, max_size=3)).items():
        if position < len(fields):
            fields[position] = value
    return fields


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    tr = draw(st.sampled_from(list(FIELDS)))
    template = FIELDS[tr]
    read = [at for at in kis_layouts.positions(twin.LAYOUTS[tr]) if at < len(template)]
    narrow = twin.LAYOUTS[tr].get("narrow", twin.LAYOUTS[tr])
    low, high = narrow["min_width"] - 1, twin.LAYOUTS[tr]["max_width"] + 1
    width = draw(st.just(len(template)) | st.integers(low, high))
    found = draw(st.lists(records((template + ["9"] * high)[:width], read), min_size=1, max_size=5))
    count = draw(st.just(len(found)) | st.integers(0, 6))
    digits = draw(st.sampled_from(["03", "", "010"]))
    header = f"{draw(st.sampled_from('0000012'))}|{tr}|{count:{digits}}|"
    return (header + "^".join("^".join(fields) for fields in found)).encode("latin-1")


receipts = st.integers(0, kst_ns("2200-01-01T00:00:00")) | st.sampled_from(
    [NOON, kst_ns("2026-11-20T00:00:00"), kst_ns("2026-11-20T22:30:15"), kst_ns("2026-11-20T22:30:15") + 1]
)
# no deadline and no complaint about slow generation: the machine may be busy with other tests
relaxed = settings(
    max_examples=examples(100, nightly=3000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@relaxed
@given(frame=frames(), recv_ns=receipts)
def test_native_and_reference_agree_on_generated_frames(native: Native, frame: bytes, recv_ns: int) -> None:
    assert_same(native, frame, recv_ns)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Native:
    names = [f"{tr}:{name}" for tr, row in twin.LAYOUTS.items() for name in row.get("alternatives", {})]
    return Native(tmp_path_factory.mktemp("kis") / "test.ring", layouts=names)


@relaxed
@given(frame=frames())
def test_native_and_reference_agree_when_the_alternatives_are_chosen(other: Native, frame: bytes) -> None:
    assert_same(other, frame)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(frames()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame)))
        kind = draw(st.sampled_from(("replace", "insert", "delete", "cut")))
        if kind == "insert":
            frame[at:at] = draw(st.sampled_from([b"^", b"|", b"0", b"-", b"\xff", b"\n"]) | st.binary(max_size=3))
        elif kind == "cut":
            del frame[at:]
        elif at < len(frame):
            frame[at : at + 1] = draw(st.binary(min_size=1, max_size=1)) if kind == "replace" else b""
    return bytes(frame)


@relaxed
@given(frame=mutated())
def test_native_and_reference_agree_on_damaged_frames(native: Native, frame: bytes) -> None:
    assert_same(native, frame)


@relaxed
@given(
    frame=st.binary(max_size=300) | st.binary(max_size=80).map(lambda tail: b"0|H0STCNT0|001|" + tail),
    is_text=st.booleans(),
)
@example(frame=b"0", is_text=True)
@example(frame=b"0|", is_text=True)
@example(frame=b"0||", is_text=True)
@example(frame=b"0|||", is_text=True)
@example(frame=b"0|H0STCNT0||", is_text=True)
@example(frame=b"0|H0STCNT|1|", is_text=True)
@example(frame=b"0|H0STCNT0|1000000|", is_text=True)
@example(frame=b"0|H0STCNT0|" + b"9" * 5000 + b"|", is_text=True)
@example(frame=b"01H0STCNT0|001|", is_text=True)
@example(frame=b"{", is_text=False)
def test_native_and_reference_agree_on_arbitrary_bytes(native: Native, frame: bytes, is_text: bool) -> None:
    assert_same(native, frame, is_text=is_text)


def test_a_long_frame_of_many_records_is_kept_whole(native: Native) -> None:
    frame = b"0|H0STCNT0|999|" + b"^".join(["^".join(TRADE_FIELDS).encode()] * 999)

    records = native.parse(frame)

    assert records is not None
    assert [record["kind"] for record in records] == ["trade"] * 999
    assert_same(native, frame)


# ---- it never reads outside the frame --------------------------------------------------------------------------------


class Fenced:
    """Memory between two pages that must not be touched: reading one byte too many kills the process."""

    PAGES = 3

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        self._map = mmap.mmap(-1, (self.PAGES + 2) * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.begin, self.end = base + page, base + (self.PAGES + 1) * page
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for fence in (base, self.end):
            assert libc.mprotect(fence, page, 0) == 0, ctypes.get_errno()

    def place(self, frame: bytes, address: int) -> Any:
        ctypes.memmove(address, frame, len(frame))
        return (ctypes.c_ubyte * len(frame)).from_address(address)

    def both_ends(self, frame: bytes) -> Iterator[Any]:
        yield self.place(frame, self.end - len(frame))
        yield self.place(frame, self.begin)


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
def test_no_prefix_of_a_sample_makes_it_read_outside_the_frame(
    native: Native, fenced: Fenced, entry: dict[str, Any]
) -> None:
    frame = sample(entry["file"])
    for size in range(len(frame) + 1):
        assert_same_between_fences(native, fenced, frame[:size])


@relaxed
@given(frame=mutated() | st.binary(max_size=200))
def test_no_damaged_frame_makes_it_read_outside_the_frame(native: Native, fenced: Fenced, frame: bytes) -> None:
    assert_same_between_fences(native, fenced, frame)
