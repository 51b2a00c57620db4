"""Readings in the Prometheus text format: every name starts with `sise_`, each number says which process it is of."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from daemon.supervision.process import ProcessState
from daemon.watching import ages
from daemon.watching.readings import NS_PER_S, ProcessReading, Reading
from native_pipeline.counters import COUNTERS, bucket_upper_us

# Who writes what: a worker must not report "database_connected 0". A counter in no line is shown where it is not 0.
WORKER = """
    frames_received bytes_received records_received records_quarantined control_frames ring_full_waits socket_pauses
    connections_opened connections_lost connections_ready connections_planned subscriptions_confirmed
    subscriptions_pending subscriptions_failed pingpongs gaps_recorded tail_bytes_cut last_data_ns rss_bytes
"""
PUBLISHER = """
    records_published publish_batches publish_lapped publish_errors redis_connected publisher_lag_bytes corrupt_records
    rss_bytes
"""
WRITER = """
    rows_committed batches_committed commit_retries database_connected writer_lag_bytes writer_lag_records writer_lapped
    last_commit_ns corrupt_records rss_bytes
"""
COUNTERS_OF = {
    "worker": frozenset(WORKER.split()),
    "publisher": frozenset(PUBLISHER.split()),
    "writer": frozenset(WRITER.split()),
    "supervisor": frozenset({"restarts", "rss_bytes"}),
    "monitor": frozenset({"rss_bytes"}),
}
ASSIGNED = frozenset().union(*COUNTERS_OF.values())
LABELS = ("role", "process")
AGE_BUCKETS_BASE = 15  # bucket of at most 15 us; from here on each 8th bucket ends just below a power of two
AGE_BUCKETS_STEP = 8
AGE_BUCKETS = 22  # up to 2**25 us = 34 s


def relevant_counters(process: ProcessReading) -> dict[str, int]:
    """Return the counters that *process* writes."""
    own = COUNTERS_OF.get(process.role, frozenset())
    return {name: value for name, value in process.values.items() if name in own or (value and name not in ASSIGNED)}


def exposition(reading: Reading, *, is_ready: bool, recent_ages_us: Mapping[str, Mapping[str, int | None]]) -> bytes:
    """Return *reading* as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*_families(reading), _ready(is_ready), _recent_ages(recent_ages_us)]))
    return generate_latest(registry)


class _Families:
    """prometheus_client's Collector protocol."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(reading: Reading) -> Iterator[Metric]:
    relevant = {process.name: relevant_counters(process) for process in reading.processes}
    for name, unit, meaning in COUNTERS:
        family = _family(name, unit, meaning)
        for process in reading.processes:
            if name in relevant[process.name]:
                value = process.values[name]
                family.add_metric([process.role, process.name], value / NS_PER_S if unit == "ns" else value)
        if family.samples:
            yield family
    yield from _process_families(reading)
    yield from _ring_families(reading)
    yield _ages(reading)


def _family(name: str, unit: str, meaning: str) -> CounterMetricFamily | GaugeMetricFamily:
    if not meaning.endswith("(gauge)"):
        return CounterMetricFamily(f"sise_{name}", f"{meaning} ({unit})", labels=LABELS)
    meaning = meaning.removesuffix(" (gauge)")
    if unit == "ns":
        return GaugeMetricFamily(f"sise_{name.removesuffix('_ns')}_timestamp_seconds", meaning, labels=LABELS)
    return GaugeMetricFamily(f"sise_{name}", meaning, labels=LABELS)


def _process_families(reading: Reading) -> Iterator[Metric]:
    silence = GaugeMetricFamily("sise_heartbeat_age_seconds", "time since the last heartbeat", labels=LABELS)
    running = GaugeMetricFamily("sise_process_running", "1 while the process does its work", labels=LABELS)
    starts = CounterMetricFamily("sise_process_starts", "how often the process was started", labels=LABELS)
    for process in reading.processes:
        labels = [process.role, process.name]
        silence.add_metric(labels, process.silent_for_s)
        running.add_metric(labels, float(process.state == ProcessState.RUNNING.name.lower()))
        starts.add_metric(labels, process.starts)
    yield from (silence, running, starts)


def _ring_families(reading: Reading) -> Iterator[Metric]:
    capacity = GaugeMetricFamily("sise_ring_capacity_bytes", "size of the ring's data area", labels=("ring",))
    written = CounterMetricFamily("sise_ring_written_bytes", "bytes published in the ring", labels=("ring",))
    lag = GaugeMetricFamily("sise_ring_lag_bytes", "published, not consumed yet", labels=("ring", "consumer"))
    lapped = CounterMetricFamily(
        "sise_ring_lapped_records", "records a lossy consumer never saw", labels=("ring", "consumer")
    )
    for ring in reading.rings:
        capacity.add_metric([ring.name], ring.capacity_bytes)
        written.add_metric([ring.name], ring.head)
        for consumer in ring.consumers:
            lag.add_metric([ring.name, consumer.name], consumer.lag_bytes)
            lapped.add_metric([ring.name, consumer.name], consumer.lapped_records)
    yield from (capacity, written, lag, lapped)


def _ages(reading: Reading) -> HistogramMetricFamily:
    """The age of records at each stage since the counters file was created; the sum is exact to a bucket's 12.5 %."""
    family = HistogramMetricFamily(
        "sise_record_age_seconds", "age of records at each stage", labels=("stage", "process")
    )
    for process in reading.processes:
        if process.role not in ages.STAGES:
            continue
        fine = ages.histogram(process)
        ends = [AGE_BUCKETS_BASE + AGE_BUCKETS_STEP * step for step in range(AGE_BUCKETS)]
        buckets = [(repr((bucket_upper_us(end) + 1) / 1e6), sum(fine[: end + 1])) for end in ends]
        buckets.append(("+Inf", sum(fine)))
        total_us = sum(count * bucket_upper_us(number) for number, count in enumerate(fine) if count)
        family.add_metric([ages.STAGES[process.role], process.name], buckets, total_us / 1e6)
    return family


def _ready(is_ready: bool) -> GaugeMetricFamily:
    return GaugeMetricFamily("sise_ready", "1 while everything streams and is stored in time", value=float(is_ready))


def _recent_ages(recent_ages_us: Mapping[str, Mapping[str, int | None]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "sise_record_age_recent_seconds", "age of the last minute's records", labels=("stage", "quantile")
    )
    for stage, quantiles in recent_ages_us.items():
        for name, age_us in quantiles.items():
            if age_us is not None:
                family.add_metric([stage, str(ages.QUANTILES[name])], age_us / 1e6)
    return family
