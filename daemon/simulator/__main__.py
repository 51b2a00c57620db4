"""`python -m daemon.simulator`."""

from daemon.simulator.command import sim_command

if __name__ == "__main__":
    sim_command(prog_name="python -m daemon.simulator")
