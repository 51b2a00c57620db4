"""The registry: the one place outside a venue's own two files that knows which venues exist.

Ids are written into ring records, so a line is only ever appended, never moved.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.ingest.venues.venue import Venue

VENUE_NAMES = ("", "kis", "kiwoom", "upbit")
MARKET_NAMES = ("", "kr", "us", "crypto")
# "" is the main exchange of the market; the others are flags of a record: SISE_FLAG_NXT, SISE_FLAG_SOR.
EXCHANGE_NAMES = ("", "nxt", "sor")
# What a feed can ask for; from the third on, records of kind SISE_EVENT, by their type.
KIND_NAMES = ("trade", "orderbook", "expected", "index", "nav", "status", "program", "quote")

VENUE_IDS = {name: number for number, name in enumerate(VENUE_NAMES) if name}
MARKET_IDS = {name: number for number, name in enumerate(MARKET_NAMES) if name}

# Venue name -> module and class, imported only by the processes that talk to that venue.
VENUE_CLASSES = {
    "kis": ("daemon.ingest.venues.kis", "KisVenue"),
    "kiwoom": ("daemon.ingest.venues.kiwoom", "KiwoomVenue"),
    "upbit": ("daemon.ingest.venues.upbit", "UpbitVenue"),
}


def venue_named(name: str) -> Venue:
    """Return the venue called *name*. Raises ConfigError if there is none."""
    if name not in VENUE_CLASSES:
        raise ConfigError(f"accounts.venue: {name!r} is not supported; supported: {', '.join(VENUE_CLASSES)}")
    module, cls = VENUE_CLASSES[name]
    venue: Venue = getattr(importlib.import_module(module), cls)()
    return venue
