"""A rig whose daemon reaches the venue over lines of ours, and may be started inside limits or namespaces."""

import contextlib
import copy
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.chaos.network import Line
from tests.chaos.venue_rig import Feed, VenueRig
from tests.rig import wait_for


class NetworkRig(VenueRig):
    """One Korean feed through one account, by way of two lines: `ws` for the WebSocket and `rest` for keys."""

    def __init__(
        self,
        directory: Path,
        postgres_dsn: str,
        redis_url: str,
        *,
        symbols: int = 6,
        accounts: int = 1,
        workers: int = 1,
        host: str = "127.0.0.1",
        name: str | None = None,
        more_settings: Mapping[str, str] | None = None,
        **ingest: float,
    ) -> None:
        """host: where the lines listen. name: what the daemon calls it. more_settings: section -> lines for it."""
        names = [f"a{number}" for number in range(accounts)]
        feeds = [
            Feed([name], [f"{100 + number:03d}{10 * i:03d}" for i in range(symbols)])
            for number, name in enumerate(names)
        ]
        super().__init__(
            directory, postgres_dsn, redis_url, accounts=dict.fromkeys(names, "kis"), feeds=feeds, workers=workers,
            **ingest,
        )  # fmt: skip
        self.host = host
        self.name = name
        self.more_settings = dict(more_settings or {})
        self.launcher: Sequence[str] = ()
        self.environment: dict[str, str] = {}
        self.tls: Any = None
        self.lines: dict[str, Line] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._stack.close()

    @property
    def ws(self) -> Line:
        """The way of the WebSockets."""
        return self.lines["ws_url"]

    @property
    def rest(self) -> Line:
        """The way of the requests for keys."""
        return self.lines["rest_url"]

    def _config(self, address: dict[str, Any]) -> str:
        address = copy.deepcopy(address)
        place = address["venues"]["kis"]
        for key in ("ws_url", "rest_url"):
            target = urlsplit(place[key])
            assert target.hostname is not None
            assert target.port is not None
            if key not in self.lines:
                line = Line((target.hostname, target.port), host=self.host, tls=self.tls)
                self.lines[key] = self._stack.enter_context(line)
            place[key] = self.lines[key].url(place[key], host=self.name)
        text = super()._config(address)
        for section, lines in self.more_settings.items():
            for line in lines.splitlines():
                text = re.sub(rf"^{line.partition(' =')[0]} = .*\n", "", text, flags=re.MULTILINE)
            head = f"[{section}]\n"
            text = text.replace(head, head + lines + "\n") if head in text else f"{head}{lines}\n{text}"
        return _top_level_first(text)

    def start_venue(self, *, rate: float, faults: Sequence[str] = (), extra: Sequence[str] = ()) -> None:
        """Start the venue alone; it offers nothing until every registration exists."""
        self.start_simulator(rate=rate, faults=tuple(faults), extra=("--start-after", str(self.wanted), *extra))

    def start_daemon(self) -> None:
        """`sise run` behind the launcher (words that end by executing what follows them)."""
        with self.log_path.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "daemon.cli", "run", "-c", str(self.config_path)],
                stdout=log, stderr=log, env={**os.environ, **self.environment},
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until every registration is confirmed."""
        wait_for(lambda: self.total("subscriptions_confirmed") == self.wanted, f"all subscriptions: {self.tail()}")


def _top_level_first(text: str) -> str:
    """Keys without a section must stand before the first one."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("data_dir"))
    return "\n".join([*lines[first : first + 2], *lines[:first], *lines[first + 2 :]]) + "\n"
