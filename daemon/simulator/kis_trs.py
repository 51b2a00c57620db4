"""The TRs that the simulated KIS knows: what each is about, what its keys look like, and its records.

Trades and order books come from the markets; the others (expected trades, index, NAV, status, program trading, order
notices) are made here, at a low rate.
"""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from daemon.simulator.market import ExchangeTime, Instrument, Record

KRX_CODE: Final = r"[0-9A-Z]{6}|Q[0-9]{6}"  # shares and ETFs; ETNs have a Q in front
US_CODE: Final = r"D(NAS|NYS|AMS)[A-Z0-9./]{1,12}|R(BAQ|BAY|BAA)[A-Z0-9./]{1,12}"  # regular; day session
INDEX_CODE: Final = r"[0-9]{4}"
HTS_ID: Final = r"[@A-Za-z0-9]{3,12}"
US_KEY_PREFIX = 4  # D or R, and the market


class Tr(NamedTuple):
    """One TR. exchange is "" for the main one of the market."""

    market: str
    exchange: str
    kind: str
    keys: re.Pattern[str]


def _tr(market: str, exchange: str, kind: str, keys: str) -> Tr:
    return Tr(market, exchange, kind, re.compile(keys))


TRS: Final[Mapping[str, Tr]] = {
    "H0STCNT0": _tr("kr", "", "trade", KRX_CODE),
    "H0STASP0": _tr("kr", "", "orderbook", KRX_CODE),
    "H0NXCNT0": _tr("kr", "nxt", "trade", KRX_CODE),
    "H0NXASP0": _tr("kr", "nxt", "orderbook", KRX_CODE),
    "H0UNCNT0": _tr("kr", "sor", "trade", KRX_CODE),
    "H0UNASP0": _tr("kr", "sor", "orderbook", KRX_CODE),
    "HDFSCNT0": _tr("us", "", "trade", US_CODE),
    "HDFSASP0": _tr("us", "", "orderbook", US_CODE),
    "H0STANC0": _tr("kr", "", "expected", KRX_CODE),
    "H0NXANC0": _tr("kr", "nxt", "expected", KRX_CODE),
    "H0UNANC0": _tr("kr", "sor", "expected", KRX_CODE),
    "H0UPCNT0": _tr("kr", "", "index", INDEX_CODE),
    "H0STNAV0": _tr("kr", "", "nav", KRX_CODE),
    "H0STMKO0": _tr("kr", "", "status", KRX_CODE),
    "H0NXMKO0": _tr("kr", "nxt", "status", KRX_CODE),
    "H0UNMKO0": _tr("kr", "sor", "status", KRX_CODE),
    "H0STPGM0": _tr("kr", "", "program", KRX_CODE),
    "H0STCNI0": _tr("kr", "", "notice", HTS_ID),
    "H0STCNI9": _tr("kr", "", "notice", HTS_ID),
    "H0GSCNI0": _tr("us", "", "notice", HTS_ID),
}
# What a book of the other two exchanges has behind the 62 fields that it shares with H0STASP0.
BOOK_TAILS: Final[Mapping[str, str]] = {"nxt": "^0^0^2", "sor": "^0^0^2^1"}
TIMED_KINDS: Final = frozenset({"expected", "index", "nav", "status", "program", "notice"})


def other_exchange_book(instrument: Instrument, exchange: str) -> Callable[[ExchangeTime], Record]:
    """Return a producer of the books of NXT (65 fields) or of all exchanges (66)."""
    tail = BOOK_TAILS[exchange]

    def produce(now: ExchangeTime) -> Record:
        text, number, price, size = instrument.book(now)
        return text[: text.rindex("^")] + tail, number, price, size

    return produce


def timed_producer(kind: str, tr_key: str, instrument: Instrument) -> Callable[[ExchangeTime], Record]:
    """Return a producer of one of TIMED_KINDS; the key of a record is its running number, price and size are 0 or real.

    *instrument* moves the numbers and serves this producer alone.
    """
    count = 0

    def produce(now: ExchangeTime) -> Record:
        nonlocal count
        count += 1
        text, _, price, size = instrument.trade(now)
        fields = text.split("^")
        if kind == "expected":
            text = "^".join([tr_key, *fields[1:43], "B", "", str(price)])
        elif kind == "index":
            rest = "^".join(["0"] * 9 + ["1", "61", "8", "131", "0", "0", "0", "0"])
            text = f"{tr_key}^{now.hhmmss}^{price / 100:.2f}^{fields[3]}^{int(fields[4]) / 100:.2f}^{fields[13]}"
            text += f"^{fields[14]}^{size}^801^{fields[5]}^551.00^552.31^547.90^{rest}"
        elif kind == "nav":
            text = (
                f"{tr_key}^{price}.77^{fields[3]}^{fields[4]}^{fields[5]}^{fields[7]}.10^{fields[8]}.00^{fields[9]}.42"
            )
        elif kind == "status":
            text = f"{tr_key}^N^(null)^{(112, 121, 129)[count % 3]}^{112}^^^55^{'YN'[count % 2]}^N"
        elif kind == "program":
            text = f"{tr_key}^{now.hhmmss}^{size}^{size * price}^{size + 3}^{(size + 3) * price}^3^{3 * price}^12^15^3"
        else:  # an order notice: 26 fields, of which only the shape matters here
            text = "^".join([tr_key, "1234567801", f"{count:010d}", "", "02", "0", "00", "0", "005930", str(size)])
            text += f"^{price}^{now.hhmmss}^0^2^1^06010^{size}^TESTER^005930^0^^^^^^0"
        return text, count, price, size

    return produce


def encrypt(text: str, key: str, iv: str) -> str:
    """Return *text* as KIS sends order notices: base64 of AES-256-CBC with PKCS#7; key and iv are their ASCII bytes."""
    from cryptography.hazmat.primitives import padding  # noqa: PLC0415 - only for who asks for notices
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415

    pad = padding.PKCS7(128).padder()
    data = pad.update(text.encode()) + pad.finalize()
    encryptor = Cipher(algorithms.AES(key.encode()), modes.CBC(iv.encode())).encryptor()
    return base64.b64encode(encryptor.update(data) + encryptor.finalize()).decode()
