"""The venue simulator: look-alikes of KIS, Kiwoom and Upbit with a synthetic market, a journal, and faults on command.

It shares no code with the daemon's parsers on purpose: what it sent is known from its journal, independently of what
the daemon believes to have received.
"""

from daemon.simulator.options import SimulatorOptions
from daemon.simulator.simulator import Simulator

__all__ = ["Simulator", "SimulatorOptions"]
