"""The simulator as a command: `sise sim` and `python -m daemon.simulator`.

Two lines of JSON on stdout: where it listens, as soon as it does; and the totals, after SIGTERM or SIGINT.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from daemon.simulator.faults import FAULTS
from daemon.simulator.options import SimulatorOptions
from daemon.simulator.simulator import Simulator

_Command = TypeVar("_Command", bound=Callable[..., Any])

OPTIONS: Sequence[Callable[[Any], Any]] = (
    click.option(
        "--venues",
        default="kis",
        show_default=True,
        metavar="NAME[=SHARE],...",
        help="kis, kiwoom, upbit, each on ports of its own; SHARE is its part of the rate.",
    ),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=0,
        show_default=True,
        help="WebSocket of the first venue; 0: any free.",
    ),
    click.option("--rest-port", type=click.IntRange(0, 65535), default=0, show_default=True, help="REST; 0: any free."),
    click.option("--rate", type=float, default=1000.0, show_default=True, help="Records a second in total."),
    click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same market."),
    click.option("--records-per-frame", type=int, default=1, show_default=True, help="At most so many trades a frame."),
    click.option("--book-share", type=float, default=0.5, show_default=True, help="Part that are order books."),
    click.option("--fragment", type=float, default=0.0, show_default=True, help="Probability to fragment a message."),
    click.option("--journal", type=click.Path(dir_okay=False), help="Write what was sent here, as CSV."),
    click.option("--seconds", type=float, help="Stop offering after so long; sessions stay open."),
    click.option("--start-after", type=int, default=0, show_default=True, help="Wait for so many registrations."),
    click.option("--max-registrations", type=int, help="Limit of a session [default: 41 for KIS]."),
    click.option(
        "--event-interval",
        "event_interval_s",
        type=float,
        default=1.0,
        show_default=True,
        help="Seconds between records of what is neither trades nor books.",
    ),
    click.option(
        "--clock", metavar="TIME", help="The exchanges' time at the start, ISO 8601 with offset [default: now]."
    ),
    click.option("--chaos", metavar="SEED[:SECONDS]", help="Faults at random, on average each so many seconds [5]."),
    click.option(
        "--idle-timeout",
        "idle_timeout_s",
        type=float,
        default=120.0,
        show_default=True,
        help="Upbit closes a session that said nothing for so long; 0: never.",
    ),
    click.option("--pingpong-interval", "pingpong_interval_s", type=float, default=10.0, show_default=True),
    click.option(
        "--pingpong-timeout",
        "pingpong_timeout_s",
        type=float,
        default=100.0,
        show_default=True,
        help="Drop a session that echoes nothing for so many seconds; 0: never.",
    ),
    click.option("--fault", "faults", multiple=True, metavar="FAULT", help="May be given several times; see below."),
)


def simulator_options(command: _Command) -> _Command:
    """Add every option of the simulator to a click command; its parameters are the fields of SimulatorOptions."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def run(options: SimulatorOptions) -> None:
    """Run until SIGTERM or SIGINT. ValueError for a bad option, OSError for a taken port or a bad journal."""
    simulator = Simulator(options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(simulator))


async def _serve(simulator: Simulator) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await simulator.start()
    first = {"ws_url": simulator.ws_url, "rest_url": simulator.rest_url, "pid": os.getpid()}
    _print(first | {"venues": simulator.addresses()})
    gc.freeze()  # what exists now lives as long as the process: no need to walk through it again and again
    try:
        signalled = asyncio.create_task(stop.wait(), name="signals")
        failed = asyncio.create_task(simulator.wait_failed(), name="failure")
        done, _ = await asyncio.wait((signalled, failed), return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        failed.cancel()
        if failed in done:
            failed.result()
    finally:
        await simulator.stop()
        _print(simulator.totals())


def _print(fields: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stdout.flush()


_FAULT_HELP = "\b\nFaults:\n" + "\n".join(f"  {usage}" for usage, _ in FAULTS.values())


@click.command("sim", epilog=_FAULT_HELP)
@simulator_options
def sim_command(**fields: Any) -> None:  # Any: click passes what the options above declare
    """Run look-alikes of the venues with a synthetic market.

    Prints one line of JSON with its addresses when it listens, and its totals on SIGTERM or SIGINT.
    """
    try:
        run(SimulatorOptions(**fields))
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(str(exc)) from exc
