"""What a reload may change, and whom it concerns: pure.

Feeds, accounts and what governs their sessions are live. Everything else is fixed when the daemon starts, because it
is the shape of files, processes and connections that exist: it keeps its value, and is named.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from daemon.config import Alerts, Config
from daemon.supervision.process import ProcessSpec

LIVE = frozenset({"accounts", "feeds", "single_socket", "ingest", "alerts", "calendar", "control_token"})
# Of the live sections what running processes have built their ways from: it waits for them to start again.
AT_START = {
    "ingest": frozenset({"connect_timeout_s", "max_frame_bytes", "key_cooldown_s"}),
    "alerts": frozenset(Alerts.__struct_fields__),
}
FOR_ALL = ("ingest", "alerts", "calendar", "control_token")  # what every process may go by

Respec = Callable[[Config], Sequence[ProcessSpec]]


class Revision(msgspec.Struct, frozen=True):
    """The settings that hold from now on, the processes for them, and who has to be told."""

    config: Config
    refused: tuple[str, ...]  # keys that need a restart of the daemon
    waiting: tuple[str, ...]  # keys that hold for what starts from now on, and for all after a restart
    specs: Mapping[str, ProcessSpec]
    concerned: frozenset[str]  # names of processes


def revise(old: Config, new: Config, specs: Sequence[ProcessSpec], respec: Respec | None) -> Revision:
    """Return what becomes of *old* settings and *specs*. Raises ConfigError: the new settings cannot be planned."""
    fixed = [name for name in Config.__struct_fields__ if name not in LIVE]
    refused = tuple(key for name in fixed for key in _changed(name, getattr(old, name), getattr(new, name)))
    waiting = tuple(
        key
        for section, names in AT_START.items()
        for key in _changed(section, getattr(old, section), getattr(new, section))
        if key.removeprefix(f"{section}.") in names
    )
    config = msgspec.structs.replace(new, **{name: getattr(old, name) for name in fixed})
    wanted = {spec.name: spec for spec in (specs if respec is None else respec(config))}
    is_for_all = any(getattr(old, name) != getattr(config, name) for name in FOR_ALL)
    before = {account.name: account for account in old.accounts}
    after = {account.name: account for account in config.accounts}
    concerned = set()
    for spec in specs:
        now = wanted.setdefault(spec.name, spec)
        uses_changed = any(before.get(name) != after.get(name) for name in {*spec.accounts, *now.accounts})
        if is_for_all or uses_changed or spec.payload != now.payload:
            concerned.add(spec.name)
    return Revision(config, refused, waiting, wanted, frozenset(concerned))


def _changed(key: str, old: object, new: object) -> list[str]:
    if old == new:
        return []
    if not isinstance(old, msgspec.Struct):
        return [key]
    names = old.__struct_fields__
    return [f"{key}.{name}" for name in names if getattr(old, name) != getattr(new, name)]
