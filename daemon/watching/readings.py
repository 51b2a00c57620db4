"""Read counters and ring headers: what the monitor knows of the daemon, without asking any process."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from daemon.errors import RingError
from daemon.rings import ring_paths
from daemon.supervision.process import ProcessState
from daemon.watching.exchange_delays import DelayReading, ExchangeDelays
from daemon.watching.reconcile_file import read_reconcile
from daemon.watching.worker_status import WorkerStatus, WorkerStatusFiles
from native_pipeline.counters import CountersBlock
from native_pipeline.ring_file import RingFile

NS_PER_S = 1_000_000_000
WORKER = "worker"


class ProcessReading(msgspec.Struct, frozen=True, kw_only=True):
    """The counters block of one process."""

    name: str
    role: str
    pid: int
    starts: int
    started_ns: int  # wall clock
    silent_for_s: float  # since its last heartbeat
    state: str  # of ProcessState, in lower case
    values: dict[str, int]
    histograms: list[list[int]]


class ConsumerReading(msgspec.Struct, frozen=True, kw_only=True):
    """How far one consumer of a ring is behind."""

    name: str
    mode: str
    position: int
    lag_bytes: int
    lapped_records: int


class RingReading(msgspec.Struct, frozen=True, kw_only=True):
    """The header of one ring."""

    name: str
    capacity_bytes: int
    head: int
    newest_ns: int  # receive time of the newest record, 0: none ever
    consumers: list[ConsumerReading]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment. `missing`: processes that never took their counters block. `workers`: by name."""

    wall_ns: int
    mono_ns: int
    processes: list[ProcessReading]
    missing: list[str]
    rings: list[RingReading]
    workers: dict[str, WorkerStatus] = {}
    reconcile: dict[str, Any] | None = None  # see reconcile_file
    delays: list[DelayReading] = []  # of the last minute


def role_of(name: str) -> str:
    """Return the role of a process name: `worker` for `worker-0`."""
    return name.partition("-")[0]


class Instruments:
    """The mapped files; read() costs about 50 us for each process."""

    def __init__(
        self,
        *,
        counters_path: Path,
        processes: Mapping[str, int],
        data_dir: Path,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._counters_path = counters_path
        self._processes = processes
        self._data_dir = data_dir
        self._wall_ns = wall_ns
        self._mono_ns = mono_ns
        self._blocks: dict[str, CountersBlock] = {}
        self._rings: dict[Path, RingFile] = {}
        self._worker_files = WorkerStatusFiles(data_dir)
        self._delays = ExchangeDelays()

    def read(self) -> Reading:
        """Return the present numbers."""
        mono_ns = self._mono_ns()
        found, missing = [], []
        for name, number in self._processes.items():
            if name not in self._blocks:
                self._blocks[name] = CountersBlock(self._counters_path, number, writable=False)
            block = self._blocks[name].snapshot()
            if block is None or block["role"] != name:
                missing.append(name)
            else:
                found.append(_process_reading(name, block, mono_ns))
        wall_ns = self._wall_ns()
        return Reading(
            wall_ns=wall_ns,
            mono_ns=mono_ns,
            processes=found,
            missing=missing,
            rings=self._read_rings(),
            workers={name: self._worker_files.read(name) for name in self._processes if role_of(name) == WORKER},
            reconcile=read_reconcile(self._data_dir),
            delays=self._delays.look(ring_paths(self._data_dir), wall_ns),
        )

    def _read_rings(self) -> list[RingReading]:
        readings = []
        for path in ring_paths(self._data_dir):
            if path in self._rings and not self._rings[path].is_in_place:  # a worker has made a new one
                del self._rings[path]
            if path not in self._rings:
                try:
                    self._rings[path] = RingFile(path)
                except RingError:  # the supervisor has reported it; there is nothing to measure
                    continue
            readings.append(_ring_reading(path.stem, self._rings[path]))
        return readings


def _process_reading(name: str, block: Mapping[str, Any], mono_ns: int) -> ProcessReading:  # Any: see CountersBlock
    state = block["state"]
    return ProcessReading(
        name=name,
        role=role_of(name),
        pid=block["pid"],
        starts=block["starts"],
        started_ns=block["started_ns"],
        silent_for_s=max(0, mono_ns - block["heartbeat_mono_ns"]) / NS_PER_S,
        state=ProcessState(state).name.lower() if state in set(ProcessState) else "unknown",
        values=block["values"],
        histograms=block["histograms"],
    )


def _ring_reading(name: str, ring: RingFile) -> RingReading:
    consumers = ring.consumers()  # positions first: a head read later is never behind them
    head = ring.head
    return RingReading(
        name=name,
        capacity_bytes=ring.capacity_bytes,
        head=head,
        newest_ns=ring.head_recv_ns,
        consumers=[
            ConsumerReading(
                name=consumer,
                mode=slot["mode"],
                position=slot["position"],
                lag_bytes=max(0, head - slot["position"]),
                lapped_records=slot["lapped_records"],
            )
            for consumer, slot in consumers.items()
        ],
    )
