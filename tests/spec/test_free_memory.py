"""An outage needs room for segments; when it is over, a writer is as small as it was before."""

import subprocess
import sys

import pytest

# In a process of its own: what other tests have freed must not be in the numbers.
MEASURE = """
import sys, time
from pathlib import Path
from daemon.sinks import free_memory
from daemon.sinks.spiller import Spiller
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference.packed_records import Trade, append

def anonymous_kb():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

path = Path(sys.argv[1])
create_ring(path, ring=0, capacity_bytes=1 << 23)
writer = RingWriter(path)
for number in range(40_000):
    append(writer, Trade(recv_ns=1_800_000_000_000_000_000 + number))
writer.publish()
spiller = Spiller([GatingReader(path, "writer")], segment_bytes=1 << 22)
before = anonymous_kb()
taken = spiller.take({})
assert len(taken.raw) > 4_000_000
during = anonymous_kb()
del taken
spiller.forget()
free_memory.trim()
print(during - before, anonymous_kb() - before)
"""
KEPT_KB = 1024


@pytest.mark.requirement("F61")
def test_the_memory_of_segments_goes_back_when_the_outage_is_over(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, f"{tmp_path}/worker-0.ring"], check=True, capture_output=True, text=True
    )

    grown_kb, kept_kb = map(int, done.stdout.split())
    assert grown_kb > 2 * 4_000
    assert kept_kb < KEPT_KB
