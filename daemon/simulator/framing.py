"""WebSocket messages as the bytes a server writes, so that many of them leave in one system call.

Texts are handled as latin-1 strings, one character per byte: a batch of messages is joined as text and encoded once.
"""

import itertools
import random
from collections.abc import Sequence

_FIN_TEXT, _TEXT, _CONTINUATION, _FIN_CONTINUATION = 0x81, 0x01, 0x00, 0x80
_FIN_BINARY, _BINARY = 0x82, 0x02
_MAX_TINY, _MAX_SHORT = 125, 0xFFFF
MAX_FRAGMENTS = 4


def _header(first_byte: int, length: int) -> str:
    if length <= _MAX_TINY:
        head = bytes((first_byte, length))
    elif length <= _MAX_SHORT:
        head = bytes((first_byte, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first_byte, 127)) + length.to_bytes(8, "big")
    return head.decode("latin-1")


# Nearly every message is shorter than this; a table look-up is a tenth of the cost of building the header.
_HEADERS = tuple(_header(_FIN_TEXT, length) for length in range(8192))


def frame(text: str) -> str:
    """Return *text* as one unfragmented text message."""
    length = len(text)
    return (_HEADERS[length] if length < len(_HEADERS) else _header(_FIN_TEXT, length)) + text


def binary_frame(text: str) -> str:
    """Return *text* as one unfragmented binary message."""
    return _header(_FIN_BINARY, len(text)) + text


def fragments(text: str, cuts: Sequence[int], *, binary: bool = False) -> list[str]:
    """Return *text* as one message in len(cuts) + 1 fragments, cut before the ascending offsets *cuts*."""
    whole, first = (_FIN_BINARY, _BINARY) if binary else (_FIN_TEXT, _TEXT)
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    last = len(pieces) - 1
    return [
        _header((whole, first, _FIN_CONTINUATION, _CONTINUATION)[(number > 0) * 2 + (number < last)], len(piece))
        + piece
        for number, piece in enumerate(pieces)
    ]


def random_cuts(length: int, draw: random.Random) -> list[int]:
    """Return one to three random offsets at which to cut a message of *length* bytes."""
    return sorted(draw.randint(0, length) for _ in range(draw.randint(1, MAX_FRAGMENTS - 1)))
