"""Hypothesis strategies for ring records: everything that the layout can hold, the ordinary more often."""

from hypothesis import strategies as st

from tests.reference.packed_records import (
    ABSENT,
    BOOK,
    EVENT,
    TRADE,
    Book,
    Decimal64,
    Event,
    Gap,
    Ledger,
    Level,
    Quarantine,
    Record,
    Trade,
)

INT64_MAX = 2**63 - 1

times = st.one_of(
    st.integers(1_700_000_000, 1_900_000_000).map(lambda second: second * 1_000_000_000),
    st.integers(1_600_000_000_000_000_000, 1_900_000_000_000_000_000),
    st.integers(ABSENT, INT64_MAX),
)
mantissas = st.one_of(st.integers(0, 10_000_000), st.integers(-(10**18), 10**18), st.integers(ABSENT + 1, INT64_MAX))
scales = st.one_of(st.integers(0, 8), st.integers(0, 18))
numbers: st.SearchStrategy[Decimal64] = st.tuples(mantissas, scales)
optional_numbers: st.SearchStrategy[Decimal64] = st.one_of(numbers, st.just((ABSENT, 0)))
symbols = st.one_of(
    st.sampled_from([b"005930", b"000660", b"AAPL", b"KRW-BTC", b"ABCDEFGHIJKLMNOPQRSTUVWX"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=0, max_size=24).map(str.encode),
)
levels: st.SearchStrategy[Level] = st.tuples(st.one_of(numbers, st.just((0, 0))), st.one_of(numbers, st.just((0, 0))))
_header = {
    "flags": st.sampled_from([0, 1, 2, 4, 5, 8, 16, 24, 32, 48, 255]),
    "venue": st.integers(0, 5),
    "market": st.integers(0, 5),
    "recv_ns": times,
    "utc_offset_min": st.one_of(st.sampled_from([540, 0, -240, -300]), st.integers(-1439, 1439)),
}
_kinds = st.sampled_from([TRADE, BOOK, EVENT, 9])

trades: st.SearchStrategy[Trade] = st.builds(
    Trade, symbol=symbols, exchange_ns=times, price=numbers, volume=numbers, cum_volume=optional_numbers,
    ask=optional_numbers, bid=optional_numbers, change_rate=optional_numbers, side=st.integers(0, 3), **_header,
)  # fmt: skip
books: st.SearchStrategy[Book] = st.builds(
    Book, symbol=symbols, exchange_ns=times, asks=st.lists(levels, max_size=10), bids=st.lists(levels, max_size=10),
    **_header,
)  # fmt: skip
quarantines: st.SearchStrategy[Quarantine] = st.builds(
    Quarantine, frame=st.binary(max_size=300), original_bytes=st.integers(0, 2**31 - 1), reason=st.integers(0, 300),
    detail=st.integers(0, 65535), **_header,
)  # fmt: skip
gaps: st.SearchStrategy[Gap] = st.builds(
    Gap, symbol=symbols, started_ns=times, ended_ns=times, missing=st.one_of(mantissas, st.just(ABSENT)),
    data_kind=_kinds, reason=st.integers(0, 255), **_header,
)  # fmt: skip
ledgers: st.SearchStrategy[Ledger] = st.builds(
    Ledger, symbol=symbols, minute_ns=times, through_seq=st.integers(0, INT64_MAX), count=st.integers(0, 2**31 - 1),
    data_kind=_kinds, **_header,
)  # fmt: skip
# What a venue may send as text, and what it should not: NUL, controls, other encodings, cut characters, surrogates.
_text_parts = st.one_of(
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=12),
    st.sampled_from([
        b"0001^2650.12^5^-0.15^", b'{"item":"005930"}', "\uc0bc\uc131".encode("cp949"), "\uc7a5\uc6b4".encode(), b"\0",
        b"\x1f\x7f", b'"\\', b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"\xc0\x80", b"\xe2\x80\xa8",
    ]),
)  # fmt: skip
venue_texts = st.lists(_text_parts, max_size=8).map(b"".join)
events: st.SearchStrategy[Event] = st.builds(
    Event, symbol=symbols, exchange_ns=times, price=optional_numbers, volume=optional_numbers,
    cum_volume=optional_numbers, change_rate=optional_numbers, type=st.one_of(st.integers(0, 7), st.just(255)),
    text=venue_texts, text_is_cut=st.booleans(), **_header,
)  # fmt: skip
records: st.SearchStrategy[Record] = st.one_of(trades, books, events, quarantines, gaps, ledgers)
