"""The Upbit parser does what its Python twin does, with any bytes, and never reads a byte outside the frame."""

from __future__ import annotations

import ctypes
import json
import mmap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.reference.native_kis import exact
from tests.reference.native_upbit import FRAMES, RECEIVED, Native, assert_same, capture, reference, sample

pytestmark = pytest.mark.requirement("SCH-01")

# no deadline and no complaint about slow generation: the machine may be busy with other tests
relaxed = settings(
    max_examples=examples(200),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=[True, False], ids=["snapshots are trades", "snapshots are quotes"])
def native(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Native:
    path = tmp_path_factory.mktemp("upbit") / "test.ring"
    return Native(path, snapshot_trades=request.param)


@pytest.mark.parametrize("path", sorted(FRAMES.glob("*.json")), ids=lambda path: path.stem)
def test_native_and_reference_agree_on_every_prefix_of_a_sample(native: Native, path: Path) -> None:
    frame = path.read_bytes()
    for size in range(len(frame) + 1):
        assert_same(native, frame[:size])


def test_native_and_reference_agree_on_every_frame_of_the_capture(native: Native) -> None:
    for frame in capture():
        assert_same(native, frame)
        assert_same(native, b"[" + frame + b"]")


# ---- generated messages ----------------------------------------------------------------------------------------------

ODD_NUMBERS = [
    "0", "-0", "0.0", "-1", "1", "5.0E-4", "1e8", "1E+8", "1.5E7", "123456789.00000001", "0.30000000000000004",
    "9223372036854775807", "9223372036854775808", "922337203685477580.7", "0.000000000000000001",
    "0.0000000000000000001", "1E-18", "1.0E-18", "1E-19", "1E18", "1E19", "9.3E18", "0E400", "0E-400", "1E400",
    "1E-400", "1E0000007", "1E00000007", "1e-000007", "01", "1.", ".5", "+1", "1e", "1e+", "0x1", "NaN",
    "Infinity", "-", "1795138215098", "1795138215098.0", "1.795138215098E12", "1795138215098.5",
    "9223372036854", "9223372036855", "12345678", "123456789", "123456789012345", "1234567890123456",
    "12345678901234567", "1234567.12345678", "12345678.123456789", "12345678.1234567890123456",
    "36028797018963968", "36028797018963967.0",
    "9999999999.999999999", "999999999.9999999999", "123456789012345.6789", "12345678901234.56789",
    "922337203.6854775807", "922337203.6854775808", "null"
]  # fmt: skip
number_texts = (
    st.sampled_from(ODD_NUMBERS)
    | st.integers(-(10**20), 10**20).map(str)
    | st.integers(0, 10**6).map(str)
    | st.decimals(allow_nan=False, allow_infinity=False, places=8).map(str)
    | st.decimals(0, 10**9, places=8).map(lambda number: format(number, "f"))
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.floats(1e-9, 1e9).map(repr)
)
strings = st.sampled_from(
    ["trade", "orderbook", "ticker", "candle.1s", "KRW-BTC", "ASK", "BID", "RISE", "FALL", "EVEN", "SNAPSHOT",
     "REALTIME", "", "A|B", 'A"B', "A\\B", " A", "X" * 24, "X" * 25, "비트코인", "\x7f", "\n", "2026-11-20"]
) | st.text(max_size=6)  # fmt: skip


@st.composite
def string_texts(draw: st.DrawFn) -> str:
    return written(draw, draw(strings))


def written(draw: st.DrawFn, text: str) -> str:
    """*text* as JSON, now and then with an escape where none is needed."""
    quoted = json.dumps(text, ensure_ascii=draw(st.booleans()))
    if text and draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        escape = "\\/" if text[at] == "/" else f"\\u{ord(text[at]):04x}" if ord(text[at]) < 0x10000 else text[at]
        quoted = json.dumps(text[:at])[:-1] + escape + json.dumps(text[at + 1 :])[1:]
    return quoted


names = st.sampled_from(
    ["type", "ty", "code", "cd", "trade_price", "tp", "trade_volume", "tv", "ask_bid", "ab", "prev_closing_price",
     "pcp", "change", "c", "change_price", "cp", "trade_timestamp", "ttms", "timestamp", "tms", "sequential_id", "sid",
     "best_ask_price", "bap", "best_bid_price", "bbp", "stream_type", "st", "orderbook_units", "obu",
     "acc_trade_volume", "atv", "signed_change_rate", "scr", "ask_price", "ap", "as", "trade_pricE", "best_ask_size",
     "bas", "acc_trade_volume_24h", "atv24h", "signed_change_price", "scp", "change_rate", "prev_closing_pric_",
     "x" * 24, "x" * 25, "", "status"]
)  # fmt: skip
other_texts = st.sampled_from(
    ["null", "true", "false", "[]", "{}", '[1,"a",{"b":[]}]', "nul", "[1,]", '{"a"}', "[" * 9]
)
scalars = number_texts | string_texts() | other_texts
spaces = st.sampled_from(["", "", "", "", " ", "\n", "\t\r ", "\v"])


@st.composite
def objects(draw: st.DrawFn, members: list[tuple[str, str]]) -> str:
    """An object of *members* (names and texts), in any order, most often as dense as the venue writes it."""
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    if draw(st.integers(0, 3)):
        return "{" + ",".join(f'"{name}":{text}' for name, text in members) + "}"
    parts = [
        f"{draw(spaces)}{written(draw, name)}{draw(spaces)}:{draw(spaces)}{text}{draw(spaces)}"
        for name, text in members
    ]
    return "{" + ",".join(parts) + "}"


@st.composite
def levels(draw: st.DrawFn) -> str:
    short = draw(st.booleans())
    found = []
    for _ in range(draw(st.integers(0, 13))):
        members = [
            (name, draw(st.decimals(0, 10**8, places=4)).__format__("f"))
            for name in (("ap", "bp", "as", "bs") if short else ("ask_price", "bid_price", "ask_size", "bid_size"))
        ]
        if draw(st.integers(0, 4)) == 0:
            members[draw(st.integers(0, 3))] = (draw(names | st.sampled_from(["ap", "bs"])), draw(scalars))
            found.append(draw(objects(members)))
        else:
            found.append("{" + ",".join(f'"{name}":{text}' for name, text in members) + "}")
    if draw(st.integers(0, 9)) == 0:
        found.append(draw(scalars))
    return "[" + ",".join(found) + "]"


@st.composite
def messages(draw: st.DrawFn) -> str:
    name = draw(
        st.sampled_from(["upbit_trade_default", "upbit_trade_simple", "upbit_trade_snapshot", "upbit_trade_exponent",
                         "upbit_orderbook_default", "upbit_orderbook_simple", "upbit_ticker_default",
                         "upbit_ticker_simple"])
    )  # fmt: skip
    members = [(key, json.dumps(value)) for key, value in json.loads(sample(f"{name}.json")).items()]
    for at in draw(st.lists(st.integers(0, len(members) - 1), max_size=3)):
        key = members[at][0]
        members[at] = (key, draw(levels() if key in ("obu", "orderbook_units") else scalars))
    members += draw(st.lists(st.tuples(names, scalars), max_size=2))
    for _ in range(draw(st.integers(0, 1))):
        del members[draw(st.integers(0, len(members) - 1))]
    return draw(objects(members))


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        text = draw(messages())
    else:
        parts = draw(st.lists(messages() | scalars, max_size=4))
        text = f"[{','.join(part + draw(spaces) for part in parts)}]"
    return (draw(spaces) + text + draw(spaces)).encode("utf-8", "surrogatepass")


@relaxed
@given(frame=frames(), is_text=st.booleans())
def test_native_and_reference_agree_on_generated_frames(native: Native, frame: bytes, is_text: bool) -> None:
    assert_same(native, frame, is_text=is_text)


@pytest.mark.parametrize("number", ODD_NUMBERS)
def test_an_odd_number_is_read_the_same_wherever_it_stands(native: Native, number: str) -> None:
    for kind in (b"trade", b"ticker"):
        for name in (b"tp", b"tv", b"bap", b"ttms", b"sid", b"atv", b"scr"):
            for tail in (b"}", b',"x":"' + b"x" * 60 + b'"}'):
                start = b'{"ty":"%s","cd":"A","tp":1,"tv":1,"ttms":1,"tms":1,"%s":' % (kind, name)
                assert_same(native, start + number.encode() + tail)


@relaxed
@given(number=number_texts, name=st.sampled_from(["tp", "tv", "ttms", "sid", "bap", "pcp", "cp"]), near=st.booleans())
def test_a_number_is_read_the_same_in_the_middle_and_at_the_end(
    native: Native, number: str, name: str, near: bool
) -> None:
    members = json.loads(sample("upbit_trade_simple.json"))
    members.pop(name)
    rest = json.dumps(members)[1:-1]
    frame = f'{{{rest},"{name}":{number}}}' if near else f'{{"{name}":{number},{rest}}}'
    assert_same(native, frame.encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(frames()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame)))
        kind = draw(st.sampled_from(("replace", "insert", "delete", "cut")))
        if kind == "insert":
            odd = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"e", b".", b"\xff", b"\n", b"\0"]
            frame[at:at] = draw(st.sampled_from(odd) | st.binary(max_size=3))
        elif kind == "cut":
            del frame[at:]
        elif at < len(frame):
            frame[at : at + 1] = draw(st.binary(min_size=1, max_size=1)) if kind == "replace" else b""
    return bytes(frame)


@relaxed
@given(frame=damaged())
def test_native_and_reference_agree_on_damaged_frames(native: Native, frame: bytes) -> None:
    assert_same(native, frame)


@relaxed
@given(
    frame=st.binary(max_size=200)
    | st.text(alphabet='{}[]",:\\ 019.eE-+truefalsn\n', max_size=40).map(str.encode)
    | st.text(alphabet='{}[]",:\\u0 1', max_size=40).map(lambda text: ('{"ty":' + text).encode())
)
@example(frame=b"")
@example(frame=b" ")
@example(frame=b"{")
@example(frame=b"{}")
@example(frame=b"[]")
@example(frame=b"[{}]")
@example(frame=b"[1]")
@example(frame=b"[{},]")
@example(frame=b"[{} {}]")
@example(frame=b"{}{}")
@example(frame=b'{"ty":"trade"}')
@example(frame=b'{"ty":5}')
@example(frame=b'{"ty":null,"status":"UP"}')
@example(frame=b'{"\\u0074y":"tr\\u0061de"}')
@example(frame=b'{"a":"\\"}')
@example(frame=b'{"a":"\\u12"}')
@example(frame=b'{"a":"\\x"}')
@example(frame=b'{"a":"\x01"}')
@example(frame=b'{"a":' + b"[" * 64 + b"1" + b"]" * 64 + b"}")
@example(frame=b'{"a":' + b"[" * 65 + b"1" + b"]" * 65 + b"}")
@example(frame=b'{"ty":"trade","obu":[' + b"[" * 65 + b"1" + b"]" * 65 + b"]}")
@example(frame=b'{"ty":"trade","obu":[{"a":' + b"[" * 64 + b"1" + b"]" * 64 + b"}]}")
@example(frame=b'[{"a":' + b"[" * 64 + b"1" + b"]" * 64 + b"}]")
@example(frame=b"[" * 100_000)
@example(frame=b'{"a":' * 100_000)
def test_native_and_reference_agree_on_arbitrary_bytes(native: Native, frame: bytes) -> None:
    assert_same(native, frame)


ODD_VALUES = ("1,", "1]", "1 ", " 1", '1,"x":1', '1,"bs":2', "1e5", "1.", "01", "-1", "1x", '1"', "1}", "1,}", "null")


@pytest.mark.parametrize("keys", [("ap", "bp", "as", "bs"), ("ask_price", "bid_price", "ask_size", "bid_size")])
@pytest.mark.parametrize("odd", ODD_VALUES)
def test_a_level_that_is_written_in_an_unusual_way_is_read_the_same(
    native: Native, keys: tuple[str, ...], odd: str
) -> None:
    usual = "{" + ",".join(f'"{key}":{number}.5' for number, key in enumerate(keys, 1)) + "}"
    for odd_key in keys:
        unusual = "{" + ",".join(f'"{key}":{odd if key == odd_key else 7}' for key in keys) + "}"
        for levels_text in (f"[{unusual},{usual}]", f"[{usual},{unusual}]", f"[{usual},{unusual},{usual}]"):
            frame = f'{{"ty":"orderbook","cd":"KRW-BTC","tms":1795138215200,"obu":{levels_text},"st":"REALTIME"}}'
            assert_same(native, frame.encode())
            assert_same(native, frame.replace("REALTIME", "REALTIME" * 10).encode())


@pytest.mark.parametrize(
    "name", ["prev_cloXXng_price", "signed_cXXnge_rate", "best_askXsk_price", "trade_prXice", "prev_closing_pric", "C"]
)
def test_a_name_that_is_nearly_one_that_is_read_is_unknown(native: Native, name: str) -> None:
    frame = sample("upbit_trade_simple.json")
    assert_same(native, frame.replace(b"{", b'{"%s":7,' % name.encode(), 1))
    assert_same(native, frame.replace(b'"pcp"', b'"%s"' % name.encode()))


# ---- memory ----------------------------------------------------------------------------------------------------------


class Fenced:
    """A frame whose last byte is the last one that may be read: behind it is a page without access."""

    PAGE = mmap.PAGESIZE

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 4 * self.PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        fence = ctypes.c_void_p(address + 3 * self.PAGE)
        assert libc.mprotect(fence, ctypes.c_size_t(self.PAGE), 0) == 0

    def place(self, frame: bytes) -> memoryview:
        end = 3 * self.PAGE
        view = memoryview(self.memory)[end - len(frame) : end]
        view[:] = frame
        return view


@pytest.mark.parametrize("path", sorted(FRAMES.glob("*.json")), ids=lambda path: path.stem)
def test_no_byte_behind_the_frame_is_read(native: Native, path: Path) -> None:
    fenced = Fenced()
    frame = path.read_bytes()
    for size in range(len(frame) + 1):
        result = native.parser.parse_view(native.ring, fenced.place(frame[:size]), RECEIVED)
        records: list[dict[str, Any]] | None = native.read() if result >= 0 else None

        assert exact(reference(frame[:size], snapshot_trades=native.parser.snapshot_trades)) == exact(records)
