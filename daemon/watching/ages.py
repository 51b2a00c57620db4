"""How old records are when a stage is done with them: from the histograms of the counters blocks, pure."""

from daemon.watching.readings import ProcessReading, Reading
from native_pipeline.counters import percentile_us

AGE_HISTOGRAM = 0  # of each process: age of a record, counted from its receipt, when that process has done its part
STAGES = {"worker": "ring", "publisher": "redis", "writer": "database"}
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}


def histogram(process: ProcessReading) -> list[int]:
    """Return the process's age histogram."""
    return process.histograms[AGE_HISTOGRAM]


def between(then: Reading, now: Reading) -> dict[str, dict[str, int | None]]:
    """Return the ages of the records that passed each stage between two readings: {"ring": {"p50": us, ...}}.

    None: no record passed.
    """
    before = {process.name: histogram(process) for process in then.processes}
    stages: dict[str, list[int]] = {}
    for process in now.processes:
        if process.role not in STAGES:
            continue
        buckets = histogram(process)
        earlier = before.get(process.name, [0] * len(buckets))
        so_far = stages.get(STAGES[process.role], [0] * len(buckets))
        added = [max(0, new - old) for new, old in zip(buckets, earlier, strict=True)]
        stages[STAGES[process.role]] = [one + other for one, other in zip(so_far, added, strict=True)]
    return {
        stage: {name: percentile_us(buckets, quantile) for name, quantile in QUANTILES.items()}
        for stage, buckets in stages.items()
    }
