"""Control groups (v1 hierarchies) for tests that take memory, processes or processor time away."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")


class Group:
    """One group of one controller."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, *pids: int) -> None:
        """Move processes here; their later children come along."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (self.path / "cgroup.procs").write_text(str(pid))

    def set(self, name: str, value: str) -> None:
        """Change a limit."""
        (self.path / name).write_text(value)

    def launcher(self) -> list[str]:
        """Return the words that execute what follows them inside the group."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]


@contextlib.contextmanager
def group(controller: str, limits: Mapping[str, str]) -> Iterator[Group]:
    """Yield a new group with *limits*; what is left in it goes back to where it was. Skips where there can be none."""
    parent = ROOT / controller
    if os.geteuid() != 0 or not os.access(parent / "cgroup.procs", os.W_OK):
        pytest.skip(f"no control groups of {controller} here that may be changed (version 1, root)")
    path = parent / f"sise-test-{os.getpid()}-{os.urandom(3).hex()}"
    path.mkdir()
    try:
        for name, value in limits.items():
            (path / name).write_text(value)
        yield Group(path)
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            path.rmdir()
