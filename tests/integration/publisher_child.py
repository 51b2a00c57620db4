"""A publisher as a process of its own, to be killed: on ring, counters and journal of a `publisher_rig.Rig`.

python -m tests.integration.publisher_child DIRECTORY URL
"""

import signal
import sys
import threading
from pathlib import Path

from daemon.config import Redis as RedisSettings
from daemon.sinks.host import Host
from daemon.sinks.publisher import Publisher
from daemon.sinks.publisher_journal import Journal
from daemon.sinks.redis_link import RedisLink
from native_pipeline.counters import CountersBlock
from native_pipeline.redis_encoder import PublishBatch
from native_pipeline.ring_reader import LossyReader
from tests.integration.publisher_rig import MARKETS, VENUES

EVERYTHING = 10_000_000  # entries that a stream keeps: a test counts them all


def main(directory: Path, url: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = RedisSettings(
        url=url, retry_max_s=0.05, flush_interval_ms=1, batch_messages=200, timeout_s=0.3, streams=("all",),
        stream_maxlen=EVERYTHING,
    )  # fmt: skip
    counters = CountersBlock(directory / "counters", 0)
    counters.take("publisher")
    with Journal(directory / "publisher.journal") as journal:
        Publisher(
            readers=[LossyReader(directory / "worker-0.ring", "publisher")],
            batch=PublishBatch(
                venues=VENUES,
                markets=MARKETS,
                minute_counts_kept_s=3600,
                streams=settings.streams,
                stream_maxlen=EVERYTHING,
            ),
            link=RedisLink(settings),
            settings=settings,
            counters=counters,
            host=Host(
                wait=lambda seconds: stop.wait(min(seconds, 0.01)),
                beat=counters.heartbeat,
                stopping=stop.is_set,
                drain_s=20.0,
            ),
            journal=journal,
        ).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
