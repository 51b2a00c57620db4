"""A disk that loses power: which images of a ring file a machine may find after it comes back.

The page cache holds what the processes wrote; a sync copies it to the disk. Until then the kernel may write any page
on its own, in any order, and the disk may have got any of a page's sectors when the power fails. So after a loss each
sector is either as it was synced last, or as it was at some later moment. `PowerModel` keeps the synced image and a
few later ones (`observe`), and draws one of the possible results.
"""

from __future__ import annotations

import random
from pathlib import Path

SECTOR = 512
PAGE = 4096


class PowerModel:
    """The disk below one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = path.read_bytes()
        self._later: list[bytes] = []

    def synced(self, image: bytes) -> None:
        """A sync began when the file held *image*, and has ended without an error."""
        self._synced = image
        self._later.clear()

    def observe(self) -> None:
        """The kernel may have written any page now."""
        self._later.append(self._path.read_bytes())

    def lose(self, rng: random.Random, *, unit: int = SECTOR, kept: float | None = None) -> bytes:
        """Return what is on the disk after a power loss: of each *unit*, the synced state or a later one.

        kept: the share of units that had been written; drawn if not given.
        """
        images = [*self._later, self._path.read_bytes()]
        share = rng.random() if kept is None else kept
        result = bytearray(self._synced)
        for begin in range(0, len(result), PAGE):
            page = slice(begin, begin + PAGE)
            changed = [image for image in images if image[page] != self._synced[page]]
            if not changed:
                continue
            for at in range(begin, begin + PAGE, unit):
                if rng.random() < share:
                    result[at : at + unit] = rng.choice(changed)[at : at + unit]
        return bytes(result)
