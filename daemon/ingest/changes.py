"""What the supervisor has told a worker last, for one who waits for it: of several changes only the newest matters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.shard_plan import WorkerPlan


class Changes:
    """An asynchronous iterator without an end."""

    def __init__(self) -> None:
        self._newest: tuple[Config, WorkerPlan] | None = None
        self._is_there = asyncio.Event()

    def put(self, config: Config, plan: WorkerPlan) -> None:
        """Replace what was not taken yet."""
        self._newest = config, plan
        self._is_there.set()

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> tuple[Config, WorkerPlan]:
        await self._is_there.wait()
        self._is_there.clear()
        if self._newest is None:
            raise StopAsyncIteration
        return self._newest
