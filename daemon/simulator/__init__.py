"""The venue simulator: a KIS look-alike with a synthetic market, its own journal, and faults on command.

It shares no code with the daemon's parsers on purpose: what it sent is known from its journal, independently of what
the daemon believes to have received.
"""

from daemon.simulator.kis_server import Simulator
from daemon.simulator.options import SimulatorOptions

__all__ = ["Simulator", "SimulatorOptions"]
