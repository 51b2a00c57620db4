"""The registry: the one place outside a venue's own two files that knows which venues exist.

Ids are written into ring records, so a line is only ever appended, never moved.
"""

VENUE_NAMES = ("", "kis", "kiwoom", "upbit")
MARKET_NAMES = ("", "kr", "us", "crypto")

VENUE_IDS = {name: number for number, name in enumerate(VENUE_NAMES) if name}
MARKET_IDS = {name: number for number, name in enumerate(MARKET_NAMES) if name}
