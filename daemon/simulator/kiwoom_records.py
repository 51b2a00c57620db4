"""The values of Kiwoom's real-time types, made from the records of the same synthetic stock that KIS sells.

Prices carry a colour sign, the size of a trade the side; the order of the keys is not fixed, so it changes from message
to message. Texts are UTF-8 bytes held as latin-1, as `framing` wants them.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

TYPES = {
    "0A": "주식기세", "0B": "주식체결", "0C": "주식우선호가", "0D": "주식호가잔량", "0H": "주식예상체결",
    "0G": "ETF NAV", "0J": "업종지수", "0w": "종목프로그램매매", "0s": "장시작시간", "1h": "VI발동/해제",
}  # fmt: skip
ORDERS = 16  # shuffles of the keys, used in turn
_BID, _ASK, _BID_SIZE, _ASK_SIZE = 51, 41, 71, 61
_SELL = "5"


def latin(text: str) -> str:
    """Return *text* as its UTF-8 bytes, one character a byte."""
    return text.encode().decode("latin-1")


def trade_values(text: str) -> dict[str, str]:
    """Return the FIDs of 0B for the text of a H0STCNT0 record."""
    f = text.split("^")
    colour = "-" if f[3] in "45" else "+" if f[3] in "12" else ""
    side = "-" if f[21] == _SELL else "+"
    change = f[4] if f[4].startswith("-") else f"+{f[4]}"
    rate = f[5] if f[5].startswith("-") else f"+{f[5]}"
    return {
        "20": f[1], "10": colour + f[2], "11": change, "12": rate, "27": colour + f[10], "28": colour + f[11],
        "15": side + f[12], "13": f[13], "14": str(int(f[14]) // 1_000_000), "16": f[7], "17": f"+{f[8]}",
        "18": f"-{f[9]}", "25": f[3], "26": "-820114", "29": "-18500311200", "30": "-88.10", "31": f[40],
        "32": "61", "228": f[18], "311": "4251000", "290": "2", "691": "0", "567": "000000", "568": "000000",
        "851": "", "1030": f[19], "1031": f[20], "1032": f[22], "9081": "1",
    }  # fmt: skip


def book_values(text: str) -> dict[str, str]:
    """Return the FIDs of 0D for the text of a H0STASP0 record."""
    f = text.split("^")
    values = {"21": f[1]}
    for level in range(10):
        values[str(_ASK + level)] = f"-{f[3 + level]}"
        values[str(_BID + level)] = f"+{f[13 + level]}"
        values[str(_ASK_SIZE + level)] = f[23 + level]
        values[str(_BID_SIZE + level)] = f[33 + level]
        values[str(81 + level)] = "+5"
        values[str(91 + level)] = "-3"
    return values | {
        "121": f[43], "122": f[54], "125": f[44], "126": f[55], "13": f[53], "128": "0", "215": "", "216": "",
    }  # fmt: skip


class Entries:
    """Writes the entries of REAL messages, in one of a few orders of their keys."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._templates: dict[tuple[str, int], Iterator[Callable[[str, Sequence[str]], str]]] = {}

    def entry(self, kind: str, item: str, values: dict[str, str]) -> str:
        """Return `{"type":...,"name":...,"item":...,"values":{...}}` in some order of its keys."""
        place = (kind, len(values))
        if place not in self._templates:
            self._templates[place] = itertools.cycle([self._template(kind, list(values)) for _ in range(ORDERS)])
        return next(self._templates[place])(item, tuple(values.values()))

    def message(self, entries: Sequence[str]) -> str:
        """Return the REAL message that carries *entries*."""
        data = f'"data":[{",".join(entries)}]'
        return f'{{"trnm":"REAL",{data}}}' if self._draw.getrandbits(1) else f'{{{data},"trnm":"REAL"}}'

    def _template(self, kind: str, names: list[str]) -> Callable[[str, Sequence[str]], str]:
        order = list(range(len(names)))
        self._draw.shuffle(order)
        fields = ",".join(f'"{names[place]}":"{{{place + 1}}}"' for place in order)
        members = [
            f'"type":"{kind}"',
            f'"name":"{latin(TYPES[kind])}"',
            '"item":"{0}"',
            f'"values":{{{{{fields}}}}}',
        ]
        self._draw.shuffle(members)
        template = "{{" + ",".join(members) + "}}"
        return lambda item, values: template.format(item, *values)
