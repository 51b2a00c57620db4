"""Readings in the Prometheus text format: every name starts with `sise_`, each number says which process it is of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from daemon.supervision.process import ProcessState
from daemon.watching import ages
from daemon.watching.markets import MarketReading
from daemon.watching.ownership import relevant_counters
from daemon.watching.readings import NS_PER_S, Reading
from native_pipeline.counters import COUNTERS, bucket_upper_us

LABELS = ("role", "process")
AGE_BUCKETS_BASE = 15  # bucket of at most 15 us; from here on each 8th bucket ends just below a power of two
AGE_BUCKETS_STEP = 8
AGE_BUCKETS = 22  # up to 2**25 us = 34 s


def exposition(
    reading: Reading,
    *,
    is_ready: bool,
    recent_ages_us: Mapping[str, Mapping[str, int | None]],
    markets: Sequence[MarketReading] = (),
) -> bytes:
    """Return *reading* as text."""
    families = [*_families(reading), _ready(is_ready), _recent_ages(recent_ages_us), *_market_families(markets)]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
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
    yield _exchange_delays(reading)
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


def _exchange_delays(reading: Reading) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "sise_exchange_delay_seconds",
        "receive time minus exchange time, of a sample of the last minute's records; the venue's resolution is in it",
        labels=("venue", "market", "quantile"),
    )
    for one in reading.delays:
        for quantile, value in (("0", one.smallest_s), ("0.5", one.p50_s), ("0.99", one.p99_s), ("1", one.largest_s)):
            family.add_metric([one.venue, one.market, quantile], value)
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


def _market_families(markets: Sequence[MarketReading]) -> Iterator[Metric]:
    is_open = GaugeMetricFamily("sise_market_open", "1 while the market trades", labels=("market",))
    newest = GaugeMetricFamily(
        "sise_market_last_data_timestamp_seconds", "receive time of the newest record", labels=("market",)
    )
    for market in markets:
        is_open.add_metric([market.name], float(market.is_open))
        newest.add_metric([market.name], market.last_data_ns / NS_PER_S)
    yield from (is_open, newest)
