"""Turns kis_layouts.toml, which people edit, into kis_layouts.h, which the KIS parser compiles in.

Not imported by the daemon. After a change of the table: `python -m native_pipeline.kis_layouts`, then rebuild.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TABLE_PATH = Path(__file__).with_name("kis_layouts.toml")
HEADER_PATH = Path(__file__).with_name("kis_layouts.h")

Row = dict[str, Any]  # Any: str, int or list of int, as in the table; checked by load_layouts

TR_BYTES = 8
ALTERNATIVE_BYTES = 16
MAX_WIDTH = 127  # positions are int8_t
MAX_LEVELS = 10
KST_OFFSET_MIN = 540
# Ids of daemon.ingest.venues.MARKET_NAMES, which this package may not import; a test compares the two.
MARKETS = {"kr": 1, "us": 2}
EXCHANGES = {"": "0", "nxt": "SISE_FLAG_NXT", "sor": "SISE_FLAG_SOR"}
# kind -> kind of record, type of event
KINDS = {
    "trade": ("SISE_TRADE", "0"),
    "orderbook": ("SISE_BOOK", "0"),
    "expected": ("SISE_EVENT", "SISE_EVENT_EXPECTED"),
    "index": ("SISE_EVENT", "SISE_EVENT_INDEX"),
    "nav": ("SISE_EVENT", "SISE_EVENT_NAV"),
    "status": ("SISE_EVENT", "SISE_EVENT_STATUS"),
    "program": ("SISE_EVENT", "SISE_EVENT_PROGRAM"),
}
# In the order of the C struct.
ROLES = (
    "symbol",
    "realtime_key",
    "time",
    "date",
    "kst_time",
    "kst_date",
    "subsecond",
    "price",
    "size",
    "cum_volume",
    "best_ask",
    "best_bid",
    "change_rate",
    "side",
    "session",
)
LEVEL_ROLES = ("ask_price", "ask_size", "bid_price", "bid_size")
# The numbers of a record, in its order.
NUMBERS = {
    "trade": ("price", "size", "cum_volume", "best_ask", "best_bid", "change_rate"),
    "event": ("price", "size", "cum_volume", "change_rate"),
}
# A record is refused by the build, not at run time, if a required role is missing.
REQUIRED = {"trade": ("symbol", "time", "price", "size"), "orderbook": ("symbol", "time", *LEVEL_ROLES)}
NEEDS = {"date": "time", "kst_time": "kst_date", "kst_date": "kst_time", "subsecond": "date"}
NOT_THERE = -1
_OPTIONS = {"title", "kind", "market", "exchange", "min_width", "max_width", "levels", "buy", "sell", "utc_offset_min"}

_PREAMBLE = """\
/* Generated from kis_layouts.toml by native_pipeline/kis_layouts.py: do not edit. */
#ifndef SISE_KIS_LAYOUTS_H
#define SISE_KIS_LAYOUTS_H

#include <stdint.h>

#include "layout.h"

#define SISE_KIS_TR_BYTES 8
#define SISE_KIS_ALTERNATIVE_BYTES 16
#define SISE_KIS_MAX_WIDTH {widest}
#define SISE_KIS_NO_FIELD (-1)

typedef struct {{
    char tr[SISE_KIS_TR_BYTES]; /* not NUL terminated */
    uint8_t kind;               /* enum sise_record_kind */
    uint8_t type;               /* enum sise_event_type of an event */
    uint8_t market;             /* id in the market registry */
    uint8_t flags;              /* enum sise_record_flag: the exchange */
    uint8_t min_width;          /* fields of one record */
    uint8_t max_width;
    uint8_t narrower;           /* row of the same TR's records of another width; 0: there are none */
    uint8_t levels;             /* of an order book */
    int16_t utc_offset_min;     /* of times that do not tell theirs */
    char buy, sell;             /* codes of the side */
    uint64_t present;           /* bit i: number i below is in the record */
    uint8_t numbers[40];        /* positions of the numbers, in the order in which the record holds them; of an order
                                   book ten for each list; 0 where there is none */
    int8_t {roles};
    int8_t ask_price[SISE_LEVELS], ask_size[SISE_LEVELS], bid_price[SISE_LEVELS], bid_size[SISE_LEVELS];
    char alternative[SISE_KIS_ALTERNATIVE_BYTES]; /* NUL padded name of a row that must be asked for */
}} sise_kis_layout;

/* first one row for each TR, then the others */
#define SISE_KIS_TRS {trs}
#define SISE_KIS_LAYOUTS {count}

static const sise_kis_layout sise_kis_layouts[SISE_KIS_LAYOUTS] = {{
"""


def load_layouts(path: Path = TABLE_PATH) -> dict[str, Row]:
    """Return every layout, "TR", "TR.MAX_WIDTH" (narrow) or "TR:ALTERNATIVE" -> its row, in the order of the C table.

    Raises ValueError if a parser could not use it.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    mains = {tr: _own(row) for tr, row in table.items()}
    narrow = {tr: _narrow(mains[tr], row["narrow"]) for tr, row in table.items() if "narrow" in row}
    alternatives = {
        f"{tr}:{name}": _changed(mains[tr], changes)
        for tr, row in table.items()
        for name, changes in row.get("alternatives", {}).items()
    }
    narrow_by_name = {f"{tr}.{row['max_width']}": row for tr, rows in narrow.items() for row in rows}
    layouts = mains | narrow_by_name | alternatives
    for name, row in layouts.items():
        _check(name, row)
    for name, row in (mains | alternatives).items():
        _check_widths(name, [row, *narrow.get(name[:TR_BYTES], [])])
    return layouts


def positions(row: Mapping[str, Any]) -> list[int]:
    """Return every position that *row* names."""
    single = [row[role] for role in ROLES if role in row]
    return single + [position for role in LEVEL_ROLES for position in row.get(role, [])]


def render(layouts: Mapping[str, Row]) -> str:
    """Return the text of kis_layouts.h."""
    names = list(layouts)
    widest = max(row["max_width"] for row in layouts.values())
    trs = sum(1 for name in names if len(name) == TR_BYTES)
    preamble = _PREAMBLE.format(widest=widest, trs=trs, count=len(names), roles=", ".join(ROLES))
    rows = []
    for number, (name, row) in enumerate(layouts.items()):
        others = [i for i, other in enumerate(names) if other.startswith(name[:TR_BYTES] + ".")]
        narrower = next((i for i in others if i > number or "." not in name), 0)
        rows.append("    {\n" + "".join(f"        {line}\n" for line in _lines(name, row, narrower)) + "    },\n")
    return preamble + "".join(rows) + "};\n\n#endif\n"


def _own(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("narrow", "alternatives")}


def _changed(row: Row, changes: Row) -> Row:
    """Return *row* with *changes*: levels cut off, fields that are not there removed."""
    changed = row | changes
    levels = changed.pop("levels", MAX_LEVELS)
    changed |= {role: changed[role][:levels] for role in LEVEL_ROLES if role in changed}
    return {key: value for key, value in changed.items() if value != NOT_THERE}


def _narrow(row: Row, changes: Row) -> list[Row]:
    """Return the layouts of records of another width."""
    step = changes.get("width_per_level", 0)
    changes = {key: value for key, value in changes.items() if key != "width_per_level"}
    if not step:
        return [_changed(row, changes)]
    widths = range(changes["min_width"], changes["max_width"] + 1, step)
    return [
        _changed(row, {"min_width": width, "max_width": width, "levels": changes["levels"] + more})
        for more, width in enumerate(widths)
    ]


def _check(name: str, row: Row) -> None:
    tr, alternative = name[:TR_BYTES], name.partition(":")[2]
    if len(tr) != TR_BYTES or not tr.isascii() or name[TR_BYTES : TR_BYTES + 1] not in ("", ".", ":"):
        raise ValueError(f"{name}: a TR id has {TR_BYTES} ASCII characters")
    if len(alternative) >= ALTERNATIVE_BYTES or not alternative.isascii():
        raise ValueError(f"{name}: an alternative's name has less than {ALTERNATIVE_BYTES} ASCII characters")
    if unknown := set(row) - _OPTIONS - set(ROLES) - set(LEVEL_ROLES):
        raise ValueError(f"{name}: unknown keys {sorted(unknown)}")
    for key, allowed in (("kind", KINDS), ("market", MARKETS), ("exchange", EXCHANGES)):
        if key in row and row[key] not in allowed:
            raise ValueError(f"{name}: {key} is one of {list(allowed)}")
    required = (*REQUIRED.get(row["kind"], ("symbol",)), *(NEEDS[role] for role in NEEDS if role in row))
    if missing := [role for role in required if role not in row]:
        raise ValueError(f"{name}: a record of kind {row['kind']} with these fields needs {missing}")
    if not 0 <= min(positions(row)) <= max(positions(row)) < row["min_width"] <= row["max_width"] <= MAX_WIDTH:
        raise ValueError(
            f"{name}: positions must be from 0 and below min_width, and min_width <= max_width <= {MAX_WIDTH}"
        )
    levels = {len(row[role]) for role in LEVEL_ROLES if role in row}
    if len(levels) > 1 or max(levels, default=0) > MAX_LEVELS:
        raise ValueError(f"{name}: the four level lists must have one length, at most {MAX_LEVELS}")


def _check_widths(name: str, rows: list[Row]) -> None:
    """Refuse widths of which one is a multiple of another: a wrong record count could pass."""
    widths = {width for row in rows for width in range(row["min_width"], row["max_width"] + 1)}
    if len(widths) < sum(row["max_width"] + 1 - row["min_width"] for row in rows):
        raise ValueError(f"{name}: one width would have two layouts")
    for width in sorted(widths):
        if multiples := widths.intersection(range(2 * width, MAX_WIDTH + 1, width)):
            raise ValueError(f"{name}: {max(multiples)} fields could be several records of {width}")


def _lines(name: str, row: Row, narrower: int) -> Iterator[str]:
    kind, event = KINDS[row["kind"]]
    single = [f".{role} = {row.get(role, 'SISE_KIS_NO_FIELD')}," for role in ROLES]
    present, numbers = _numbers(row)
    yield f'.tr = "{name[:TR_BYTES]}", /* {row["title"]} */'
    yield (
        f".kind = {kind}, .type = {event}, .market = {MARKETS[row.get('market', 'kr')]}, "
        f".flags = {EXCHANGES[row.get('exchange', '')]},"
    )
    yield f".min_width = {row['min_width']}, .max_width = {row['max_width']}, .narrower = {narrower},"
    yield (
        f".levels = {len(row.get('ask_price', []))}, .utc_offset_min = {row.get('utc_offset_min', KST_OFFSET_MIN)}, "
        f".buy = '{row.get('buy', '1')}', .sell = '{row.get('sell', '5')}',"
    )
    yield f".present = {present:#x}u, .numbers = {{{', '.join(map(str, numbers))}}},"
    yield " ".join(single[:7])
    yield " ".join(single[7:])
    yield from (f".{role} = {{{', '.join(map(str, row[role]))}}}," for role in LEVEL_ROLES if role in row)
    if ":" in name:
        yield f'.alternative = "{name.partition(":")[2]}",'


def _numbers(row: Row) -> tuple[int, list[int]]:
    """Return the mask of the numbers that are there, and the positions of all."""
    if row["kind"] == "orderbook":
        found = [(*row[role], *[None] * (MAX_LEVELS - len(row[role]))) for role in LEVEL_ROLES]
        flat = [position for role in found for position in role]
    else:
        flat = [row.get(role) for role in NUMBERS.get(row["kind"], NUMBERS["event"])]
    return sum(1 << i for i, position in enumerate(flat) if position is not None), [position or 0 for position in flat]


if __name__ == "__main__":
    HEADER_PATH.write_text(render(load_layouts()), encoding="utf-8")
