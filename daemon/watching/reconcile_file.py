"""What the comparison of counts has come to, as the monitor leaves it for `sise status`: read by anybody."""

from pathlib import Path
from typing import Any

import msgspec

FILE = Path("run", "reconcile.json")  # in the data directory; written by `reconcile_thread`


def read_reconcile(data_dir: Path) -> dict[str, Any] | None:  # JSON
    """Return the fields of `reconcile.ReconcileState`; None: nothing was compared yet."""
    try:
        found = msgspec.json.decode((data_dir / FILE).read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None
