"""A place in the desired state, and the process that fills it at the moment."""

from dataclasses import dataclass

from daemon.supervision import liveness, spawn
from daemon.supervision.process import ProcessSpec, ProcessState
from daemon.supervision.restarts import Backoff
from native_pipeline.counters import CountersBlock


@dataclass(slots=True)
class Managed:
    """What the supervisor knows of one child. All times are CLOCK_MONOTONIC."""

    spec: ProcessSpec
    counters: CountersBlock
    backoff: Backoff
    handle: spawn.ChildHandle | None = None
    due_ns: int | None = 0  # when to start it; None: not any more
    spawned_ns: int = 0
    starts: int = 0
    kill_at_ns: int | None = None
    is_condemned: bool = False  # we ended it, because it hung
    is_asked_to_stop: bool = False
    drains_again: bool = False  # it ended badly during the stop, and was started once more

    def has_run(self, pid: int) -> bool:
        """True if the process *pid* got as far as doing its work."""
        vitals = self.counters.snapshot()
        return vitals is not None and vitals["pid"] == pid and vitals["state"] != ProcessState.STARTING

    def vital(self) -> liveness.Vital:
        """Return what tells whether the process is alive; there must be one."""
        assert self.handle is not None
        block = self.counters.snapshot() or {"pid": 0, "heartbeat_mono_ns": 0}
        return liveness.Vital(
            name=self.spec.name,
            pid=self.handle.pid,
            spawned_mono_ns=self.spawned_ns,
            block_pid=block["pid"],
            heartbeat_mono_ns=block["heartbeat_mono_ns"],
        )
