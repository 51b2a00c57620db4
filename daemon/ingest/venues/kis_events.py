"""What the fields of an event's own text are called, for people: `^`-separated, known by the event and their number.

Only for showing a record; what is stored as a number is in the native parser's table, at the same positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_STOCK_EXPECTED = {
    "symbol": 0, "time": 1, "price": 2, "sign": 3, "change": 4, "change_rate": 5, "open": 7, "high": 8, "low": 9,
    "best_ask": 10, "best_bid": 11, "size": 12, "cum_volume": 13, "cum_value": 14, "side": 21, "date": 33,
    "session": 34, "best_ask_size": 36, "best_bid_size": 37,
}  # fmt: skip
_INDEX_EXPECTED = {"symbol": 0, "time": 1, "price": 2, "sign": 3, "change": 4, "cum_volume": 5, "change_rate": 9}
_FUTURE_EXPECTED = {"symbol": 0, "time": 1, "price": 2, "change": 3, "sign": 4, "change_rate": 5, "size": 7}
_INDEX = _INDEX_EXPECTED | {"cum_value": 6, "size": 7, "open": 10, "high": 11, "low": 12}
_NAV = {"symbol": 0, "price": 1, "sign": 2, "change": 3, "change_rate": 4, "open": 5, "high": 6, "low": 7}
_STATUS = {"symbol": 0, "halted": 1, "reason": 2, "operation": 3, "expected_operation": 4, "status": 7, "vi": 8}
_PROGRAM = {
    "symbol": 0, "time": 1, "sell_volume": 2, "sell_value": 3, "buy_volume": 4, "buy_value": 5, "net_volume": 6,
    "net_value": 7,
}  # fmt: skip

# By type: (fewest fields, position of each name), the widest layout first.
LAYOUTS: Mapping[str, Sequence[tuple[int, Mapping[str, int]]]] = {
    "expected": ((38, _STOCK_EXPECTED), (15, _INDEX_EXPECTED), (7, _FUTURE_EXPECTED)),
    "index": ((13, _INDEX),),
    "nav": ((8, _NAV),),
    "status": ((9, _STATUS),),
    "program": ((8, _PROGRAM),),
}


def describe(event_type: str, text: bytes) -> dict[str, str]:
    """Return the values of an event's *text* by name; none of a text too short to be one of its type."""
    fields = text.decode("utf-8", "replace").split("^")
    for fewest, positions in LAYOUTS.get(event_type, ()):
        if len(fields) >= fewest:
            return {name: fields[position] for name, position in positions.items() if position < len(fields)}
    return {}
