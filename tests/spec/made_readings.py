"""Readings as the monitor would take them, for tests."""

from daemon.watching.readings import NS_PER_S, ConsumerReading, ProcessReading, Reading, RingReading, role_of
from daemon.watching.worker_status import WorkerStatus
from native_pipeline.counters import COUNTERS, HISTOGRAM_BUCKETS

CAPACITY = 1 << 20


def process(
    name: str,
    *,
    state: str = "running",
    silent_for_s: float = 0.1,
    started_s: float = 0.0,
    ages: dict[int, int] | None = None,
    **values: int,
) -> ProcessReading:
    """*ages*: {bucket: records}."""
    histogram = [0] * HISTOGRAM_BUCKETS
    for bucket, records in (ages or {}).items():
        histogram[bucket] = records
    return ProcessReading(
        name=name,
        role=role_of(name),
        pid=7,
        starts=1,
        started_ns=int(started_s * NS_PER_S),
        silent_for_s=silent_for_s,
        state=state,
        values={**dict.fromkeys((name for name, _, _ in COUNTERS), 0), **values},
        histograms=[histogram, [0] * HISTOGRAM_BUCKETS],
    )


def ring(*, head: int = 0, writer: int | None = None, publisher: int | None = None) -> RingReading:
    """A ring whose consumers stand at the given positions; None: at its head."""
    positions = {"writer": head if writer is None else writer, "publisher": head if publisher is None else publisher}
    return RingReading(
        name="worker-0",
        capacity_bytes=CAPACITY,
        head=head,
        newest_ns=0,
        consumers=[
            ConsumerReading(name=name, mode="gating", position=position, lag_bytes=head - position, lapped_records=0)
            for name, position in positions.items()
        ],
    )


def reading(
    at_s: float = 100.0,
    *,
    supervisor: ProcessReading | None = None,
    worker: ProcessReading | None = None,
    writer: ProcessReading | None = None,
    publisher: ProcessReading | None = None,
    recorder: ProcessReading | None = None,
    rings: tuple[RingReading, ...] = (),
    missing: tuple[str, ...] = (),
    workers: dict[str, WorkerStatus] | None = None,
) -> Reading:
    """A healthy daemon at *at_s*, but for what is given."""
    return Reading(
        wall_ns=int(at_s * NS_PER_S),
        mono_ns=int(at_s * NS_PER_S),
        processes=[
            supervisor or process("supervisor"),
            worker or process("worker-0", connections_planned=2, connections_ready=2, subscriptions_confirmed=4),
            writer or process("writer", database_connected=1),
            publisher or process("publisher", redis_connected=1),
            process("monitor"),
            *([] if recorder is None else [recorder]),
        ],
        missing=list(missing),
        rings=list(rings or (ring(),)),
        workers=workers or {},
    )
