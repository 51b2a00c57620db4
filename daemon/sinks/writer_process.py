"""The process of the writer: its parts are made of the settings, and put together."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from daemon.alerts import SOCKET as ALERTS_SOCKET
from daemon.alerts import Alerts, DatagramAlerts, NullAlerts
from daemon.config import Database as DatabaseSettings
from daemon.config import Spill as SpillSettings
from daemon.identity import Owner, owner_of
from daemon.planning import planned_streams
from daemon.rings import RINGS_DIR, look_for_new_rings, noticing_new_rings, rings_in
from daemon.sinks.database import Database
from daemon.sinks.host import Host, before_each, host_of
from daemon.sinks.isolation import new_batch
from daemon.sinks.outage import SpillParts
from daemon.sinks.recovery import Registrar, Replayer
from daemon.sinks.recovery_thread import LiveLoad, RecoveryThread, WaitingAlerts
from daemon.sinks.spill import DIRECTORY, GIB, MIB, SpillDirectory
from daemon.sinks.spiller import Spiller
from daemon.sinks.stream_gaps import StreamGaps
from daemon.sinks.writer import CONSUMER, Writer
from daemon.sinks.writer_ports import ring_of
from daemon.supervision import process
from native_pipeline.counters import CountersBlock
from native_pipeline.ring_reader import GatingReader


def run(
    settings: DatabaseSettings,
    rings_dir: Path,
    counters: CountersBlock,
    host: Host,
    *,
    on_ready: Callable[[], object],
    spill_directory: Path,
    spill: SpillSettings = SpillSettings(),  # noqa: B008 - frozen
    alerts: Alerts | None = None,
    owner: Owner | None = None,
    gaps: StreamGaps | None = None,
) -> bool:
    """Be the writer of the rings in *rings_dir*; see `Writer.run` for the result.

    on_ready is called when the rings are open: a database that is away is waited for, a broken ring is not.
    Raises RingError if a ring is not what it says or has a writer already, Fenced if another daemon writes its rows.
    """
    alerts = alerts or NullAlerts()
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(contextlib.closing(GatingReader(path, CONSUMER))) for path in rings_in(rings_dir)
        ]
        on_ready()
        database, second = Database(settings, owner, gaps), Database(settings, owner, gaps)
        directory = SpillDirectory(
            spill_directory, quota_bytes=int(spill.quota_gb * GIB), min_free_bytes=spill.min_free_mb * MIB
        )
        load = LiveLoad()
        first = {ring_of(reader): reader.first_seq - 1 for reader in readers}
        waiting = WaitingAlerts()
        replayer = Replayer(
            directory=directory, database=second, batch=new_batch(), counters=counters, alerts=waiting, gaps=gaps
        )
        spilling = SpillParts(
            settings=spill,
            directory=directory,
            spiller=Spiller(readers, segment_bytes=spill.segment_mb * MIB),
            registrar=Registrar(directory=directory, database=database, counters=counters, first=first, gaps=gaps),
            recovery=RecoveryThread(
                replayer, second, load, every_s=spill.recover_every_s, again_s=spill.probe_s, alerts=waiting
            ),
            alerts=alerts,
        )
        writer = Writer(
            readers=readers,
            batch=new_batch(),
            database=database,
            settings=settings,
            spilling=spilling,
            load=load,
            counters=counters,
            host=dataclasses.replace(host, wait=noticing_new_rings(host.wait, rings_dir, readers)),
        )
        is_drained = writer.run()
        if is_drained:
            look_for_new_rings(rings_dir, readers)  # since the last look: the supervisor has time for that one too
        return is_drained


def main(child: process.Child) -> None:
    """Be the writer process until asked to stop."""
    alerts = DatagramAlerts(child.data_dir / ALERTS_SOCKET, role=child.name, logger=child.log, counters=child.counters)
    host = host_of(child, CONSUMER)
    with contextlib.closing(alerts):
        run(
            child.config.database,
            child.data_dir / RINGS_DIR,
            child.counters,
            before_each(host, alerts.flush),
            on_ready=child.running,
            spill_directory=child.data_dir / DIRECTORY,
            spill=child.config.spill,
            alerts=alerts,
            owner=owner_of(child.data_dir, os.getppid()),
            gaps=StreamGaps(partial(planned_streams, child.data_dir)),
        )


if __name__ == "__main__":
    process.main(main)
