"""Readings as Prometheus sees them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.watching import ages, metrics
from daemon.watching.readings import Reading
from daemon.watching.status import Watch
from daemon.watching.summary import rates
from tests.spec.made_readings import process, reading, ring

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(one: Reading) -> dict[Sample, float]:
    text = metrics.exposition(one, is_ready=True, recent_ages_us={"ring": {"p50": 15, "p99": None}}).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> Sample:
    return (name, frozenset(labels.items()))


def test_every_name_is_ours_and_the_text_is_what_prometheus_parses() -> None:
    assert {name.split("_")[0] for name, _ in samples(reading())} == {"sise"}


def test_counters_gauges_and_times_carry_role_and_process() -> None:
    worker = process("worker-0", records_received=5, connections_ready=1, last_data_ns=1_500_000_000)

    found = samples(reading(worker=worker))

    assert found[of("sise_records_received_total", role="worker", process="worker-0")] == 5
    assert found[of("sise_connections_ready", role="worker", process="worker-0")] == 1
    assert found[of("sise_last_data_timestamp_seconds", role="worker", process="worker-0")] == 1.5


def test_a_process_shows_only_the_counters_that_its_role_writes() -> None:
    connected = {labels for name, labels in samples(reading()) if name == "sise_database_connected"}

    assert connected == {of("", role="writer", process="writer")[1]}


def test_rings_and_processes_are_measured() -> None:
    found = samples(reading(rings=(ring(head=4096, writer=1024),)))

    assert found[of("sise_ring_lag_bytes", ring="worker-0", consumer="writer")] == 3072
    assert found[of("sise_ring_written_bytes_total", ring="worker-0")] == 4096
    assert found[of("sise_process_running", role="writer", process="writer")] == 1
    assert found[of("sise_heartbeat_age_seconds", role="writer", process="writer")] == pytest.approx(0.1)
    assert found[of("sise_ready")] == 1


def test_ages_are_a_cumulative_histogram_in_seconds() -> None:
    # bucket 15: up to 15 us; bucket 16: 16 and 17 us; the last: everything beyond the table
    worker = process("worker-0", ages={15: 3, 16: 2, 399: 1})

    found = samples(reading(worker=worker))

    def at(edge: str) -> float:
        return found[of("sise_record_age_seconds_bucket", stage="ring", process="worker-0", le=edge)]

    assert [at("1.6e-05"), at("3.2e-05"), at("+Inf")] == [3, 5, 6]
    assert found[of("sise_record_age_seconds_count", stage="ring", process="worker-0")] == 6


def test_recent_ages_are_gauges_by_quantile_and_absent_where_nothing_passed() -> None:
    recent = {key: value for key, value in samples(reading()).items() if key[0] == "sise_record_age_recent_seconds"}

    assert recent == {of("sise_record_age_recent_seconds", stage="ring", quantile="0.5"): pytest.approx(15e-6)}


def test_recent_ages_count_only_what_passed_between_two_readings() -> None:
    then = reading(worker=process("worker-0", ages={10: 1000}))
    now = reading(worker=process("worker-0", ages={10: 1000, 12: 10}))

    found = ages.between(then, now)

    assert found["ring"] == {"p50": 12, "p99": 12, "p99_9": 12}
    assert found["database"] == {"p50": None, "p99": None, "p99_9": None}


def test_rates_are_of_the_last_ten_seconds() -> None:
    history = [
        reading(at_s, worker=process("worker-0", records_received=received))
        for at_s, received in ((80.0, 0), (90.0, 1000), (95.0, 1000), (100.0, 3000))
    ]

    assert rates(history)["records_received"] == 200.0
    assert rates(history[-1:])["records_received"] == 0.0


def test_the_status_is_json_of_everything() -> None:
    worker = process("worker-0", connections_planned=1, subscriptions_confirmed=1)
    watch = Watch(lambda: reading(worker=worker), silence_limit_s=30.0)
    watch.sample()

    status = watch.status()

    assert (status["alive"], status["ready"]) == (True, False)
    assert status["reasons"] == ["worker-0: 0 of 1 connections stream"]
    assert [one["name"] for one in status["processes"]][:2] == ["supervisor", "worker-0"]
    assert status["rings"][0]["consumers"]["writer"]["lag_bytes"] == 0
