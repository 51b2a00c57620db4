"""Turns kis_layouts.toml, which people edit, into kis_layouts.h, which the KIS parser compiles in.

Not imported by the daemon. After a change of the table: `python -m native_pipeline.kis_layouts`, then rebuild.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TABLE_PATH = Path(__file__).with_name("kis_layouts.toml")
HEADER_PATH = Path(__file__).with_name("kis_layouts.h")

TR_BYTES = 8
KINDS = {"trade": "SISE_TRADE", "orderbook": "SISE_BOOK"}
# In the order of the C struct. A record is refused by the build, not at run time, if a required role is missing.
ROLES = (
    "symbol",
    "time",
    "date",
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
REQUIRED = {"trade": ("symbol", "time", "price", "size"), "orderbook": ("symbol", "time", *LEVEL_ROLES)}
MAX_LEVELS = 10

_PREAMBLE = """\
/* Generated from kis_layouts.toml by native_pipeline/kis_layouts.py: do not edit. */
#ifndef SISE_KIS_LAYOUTS_H
#define SISE_KIS_LAYOUTS_H

#include <stdint.h>

#include "layout.h"

#define SISE_KIS_TR_BYTES 8
#define SISE_KIS_MAX_WIDTH {widest}
#define SISE_KIS_NO_FIELD (-1)

typedef struct {{
    char tr[SISE_KIS_TR_BYTES]; /* not NUL terminated */
    uint8_t kind;               /* enum sise_record_kind */
    uint8_t min_width;          /* fields of one record */
    uint8_t max_width;
    uint8_t needed;             /* fields that must be split off: the last position read, plus one */
    uint8_t levels;             /* of an order book */
    uint8_t numbers[40];        /* positions of the numbers, in the order in which the record holds them */
    uint8_t number_count;       /* 0: not every number is there, they are read one by one */
    int8_t symbol, time, date, price, size, cum_volume, best_ask, best_bid, change_rate, side, session;
    int8_t ask_price[SISE_LEVELS], ask_size[SISE_LEVELS], bid_price[SISE_LEVELS], bid_size[SISE_LEVELS];
}} sise_kis_layout;

#define SISE_KIS_LAYOUTS {count}

static const sise_kis_layout sise_kis_layouts[SISE_KIS_LAYOUTS] = {{
"""


def load_layouts(path: Path = TABLE_PATH) -> dict[str, dict[str, Any]]:  # Any: str, int or list of int, checked below
    """Return the table, TR id -> its row, after checking that a parser can use it. Raises ValueError if not."""
    layouts = tomllib.loads(path.read_text(encoding="utf-8"))
    for tr, row in layouts.items():
        _check(tr, row)
    return layouts


def positions(row: Mapping[str, Any]) -> list[int]:
    """Return every position that *row* names."""
    single = [row[role] for role in ROLES if role in row]
    return single + [position for role in LEVEL_ROLES for position in row.get(role, [])]


def render(layouts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of kis_layouts.h."""
    widest = max(row["max_width"] for row in layouts.values())
    rows = [_row(tr, row) for tr, row in layouts.items()]
    return _PREAMBLE.format(widest=widest, count=len(rows)) + "".join(rows) + "};\n\n#endif\n"


def _check(tr: str, row: Mapping[str, Any]) -> None:
    known = {"title", "kind", "min_width", "max_width", *ROLES, *LEVEL_ROLES}
    if len(tr) != TR_BYTES or not tr.isascii():
        raise ValueError(f"{tr}: a TR id has {TR_BYTES} ASCII characters")
    if unknown := set(row) - known:
        raise ValueError(f"{tr}: unknown keys {sorted(unknown)}")
    if missing := [role for role in REQUIRED[row["kind"]] if role not in row]:
        raise ValueError(f"{tr}: a record of kind {row['kind']} needs {missing}")
    if not max(positions(row)) < row["min_width"] <= row["max_width"] <= 127:
        raise ValueError(f"{tr}: positions must be below min_width, and min_width <= max_width <= 127")
    levels = {len(row[role]) for role in LEVEL_ROLES if role in row}
    if len(levels) > 1 or max(levels, default=0) > MAX_LEVELS:
        raise ValueError(f"{tr}: the four level lists must have one length, at most {MAX_LEVELS}")


def _row(tr: str, row: Mapping[str, Any]) -> str:
    single = " ".join(f".{role} = {row.get(role, 'SISE_KIS_NO_FIELD')}," for role in ROLES)
    lines = [
        f'.tr = "{tr}", /* {row["title"]} */',
        f".kind = {KINDS[row['kind']]}, .min_width = {row['min_width']}, .max_width = {row['max_width']},",
        f".needed = {max(positions(row)) + 1}, .levels = {len(row.get('ask_price', []))},",
        *_numbers(row),
        single,
        *(f".{role} = {{{', '.join(map(str, row[role]))}}}," for role in LEVEL_ROLES if role in row),
    ]
    return "    {\n" + "".join(f"        {line}\n" for line in lines) + "    },\n"


def _numbers(row: Mapping[str, Any]) -> list[str]:
    if row["kind"] == "trade":
        found = [row.get(role) for role in ("price", "size", "cum_volume", "best_ask", "best_bid", "change_rate")]
    else:
        found = [position for role in LEVEL_ROLES for position in row[role]]
        if len(found) < len(LEVEL_ROLES) * MAX_LEVELS:
            return []
    if None in found:
        return []
    return [f".numbers = {{{', '.join(map(str, found))}}}, .number_count = {len(found)},"]


if __name__ == "__main__":
    HEADER_PATH.write_text(render(load_layouts()), encoding="utf-8")
