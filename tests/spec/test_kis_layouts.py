"""The table of KIS record layouts: what people edit is what the parser was compiled with."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.ingest.venues import MARKET_IDS, MARKET_NAMES
from daemon.ingest.venues.kis import CHANNELS, Channel
from native_pipeline import kis_layouts
from native_pipeline.parse_kis import native_layouts
from native_pipeline.records import EVENT_NAMES

pytestmark = pytest.mark.requirement("SCH-01")


def test_the_table_compiled_in_is_the_one_in_the_data_file() -> None:
    kinds = {"trade": (1, 0), "orderbook": (2, 0)} | {name: (6, number) for number, name in EVENT_NAMES.items()}
    expected = {}
    for name, row in kis_layouts.load_layouts().items():
        kind, event = kinds[row["kind"]]
        numbers = {
            "kind": kind,
            "type": event,
            "market": MARKET_NAMES.index(row.get("market", "kr")),
            "flags": {"": 0, "nxt": 16, "sor": 32}[row.get("exchange", "")],
        }
        defaults = {"utc_offset_min": 540, "buy": "1", "sell": "5"}
        expected[name] = defaults | {k: v for k, v in row.items() if k not in ("title", "exchange")} | numbers

    assert expected == native_layouts()


def test_the_markets_of_the_table_are_those_of_the_registry() -> None:
    assert {name: MARKET_IDS[name] for name in kis_layouts.MARKETS} == kis_layouts.MARKETS


def test_the_venue_knows_every_tr_of_the_table_and_what_it_carries() -> None:
    rows = {name: row for name, row in kis_layouts.load_layouts().items() if len(name) == kis_layouts.TR_BYTES}

    assert {
        name: Channel(row.get("market", "kr"), row["kind"], row.get("exchange", "")) for name, row in rows.items()
    } == CHANNELS


def test_the_generated_header_is_up_to_date() -> None:
    assert kis_layouts.render(kis_layouts.load_layouts()) == kis_layouts.HEADER_PATH.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[H0STCNT0]", "[H0STCNT]", "8 ASCII characters"),
        ("side = 21", "sied = 21", "unknown keys"),
        ("price = 2\n", "", r"needs \['price'\]"),
        ("date = 33", "date = 46", "below min_width"),
        ("date = 33", "date = -2", "positions must be from 0"),
        ('kind = "trade"', 'kind = "tirade"', "kind is one of"),
        ('market = "us"', 'market = "moon"', "market is one of"),
        ('exchange = "nxt"', 'exchange = "nyse"', "exchange is one of"),
        ("kst_date = 6\n", "", r"needs \['kst_date'\]"),
        ("max_width = 55", "max_width = 92", "92 fields could be several records of 46"),
        ("max_width = 75", "max_width = 76", "76 fields could be several records of 38"),
        ("max_width = 46\nask", "max_width = 68\nask", "one width would have two layouts"),
        ("alternatives.appended]", "alternatives.appended_appended]", "less than 16"),
        ("max_width = 55", "max_width = 128", "<= 127"),
        ("41, 42]", "41]", "one length"),
    ],
)
def test_a_table_that_a_parser_could_not_use_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = kis_layouts.TABLE_PATH.read_text(encoding="utf-8")
    assert old in text
    table = tmp_path / "kis_layouts.toml"
    table.write_text(text.replace(old, new, 1), encoding="utf-8")

    with pytest.raises(ValueError, match=message):
        kis_layouts.load_layouts(table)
