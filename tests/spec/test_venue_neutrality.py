"""What venues share knows none of them: not its name, not one of its codes. A new venue changes no shared file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon.ingest.venues import VENUE_CLASSES, VENUE_NAMES

pytestmark = pytest.mark.requirement("ARCH-01")

ROOT = Path(__file__).parents[2]
SUFFIXES = {".py", ".pyx", ".pxd", ".pyi", ".h", ".sql", ".toml", ".yaml", ".conf", ".html", ".js", ""}
SHARED = ("daemon", "native_pipeline", "deploy", "Makefile", "Dockerfile", "setup.py", "pyproject.toml")

# Also as a part of an identifier: KisParser, kis_layouts, _kiwoom.
NAMES = re.compile(
    "|".join(
        f"(?<![A-Za-z])(?:{name}|{name.title()})(?![a-z])|(?<![A-Z]){name.upper()}(?![A-Z])"
        for name in VENUE_NAMES
        if name
    )
)
# What occurs on the wire of one venue only: reply codes and the names of streams.
CODES = re.compile(r"\bOPSP\d{4}|\bEGW\d{5}|\bR1000\d|\bH0[A-Z]{5}\d\b|\bHDF[A-Z]{4}\d\b")

# The files of one venue: they may say its name and codes, but not those of another.
OWN_FILES = (
    "daemon/ingest/venues/{venue}.py",
    "native_pipeline/parse_{venue}.*",
    "native_pipeline/{venue}_*",
    "daemon/simulator/{venue}*.py",
)


class Allowed(NamedTuple):
    """Lines of one file that may name venues, and why."""

    lines: str  # what such a line looks like, a regular expression
    why: str


ANY = ""
EXCEPTIONS = {
    "daemon/ingest/venues/__init__.py": Allowed(
        r'^VENUE_NAMES = |^    "\w+": \("daemon\.ingest\.venues\.', "the registry"
    ),
    "setup.py": Allowed(r'^    "parse_\w+",$', "the list of the native modules"),
    "daemon/config.py": Allowed(r"^(venue|app_key|app_secret) = ", "the starter file is for a real account"),
    "deploy/sise.example.toml": Allowed(ANY, "a starter file too, with an example of each"),
    "deploy/compose.yaml": Allowed(r"_app_(key|secret)", "the secrets of that starter file"),
    "daemon/demo.py": Allowed(ANY, "chooses the venues of a demonstration and writes its configuration"),
    # the simulator is the venues; the rest of it is neutral
    "daemon/simulator/__init__.py": Allowed(ANY, "says which venues there are"),
    "daemon/simulator/simulator.py": Allowed(ANY, "its registry of venues"),
    "daemon/simulator/rest.py": Allowed(ANY, "the doors of the venues that issue keys"),
    "daemon/simulator/options.py": Allowed(ANY, "documented limits of each venue"),
    "daemon/simulator/command.py": Allowed(ANY, "help texts"),
    "daemon/simulator/faults.py": Allowed(ANY, "help texts and garbage name the codes that a fault provokes"),
    "daemon/simulator/dialect.py": Allowed(ANY, "the words of one venue"),
    "daemon/simulator/market.py": Allowed(ANY, "the records of one venue"),
    "daemon/simulator/us_market.py": Allowed(ANY, "the records of one venue"),
    "daemon/simulator/venue.py": Allowed(ANY, "the journal's lines of the first venue name none"),
}


def own_files(venue: str) -> set[Path]:
    return {path for pattern in OWN_FILES for path in ROOT.glob(pattern.format(venue=venue))}


def is_generated(path: Path) -> bool:
    """Cython's C beside its source is not looked at, nor is its annotated page."""
    return path.with_suffix(".pyx").exists() and path.suffix in (".c", ".html")


def shared_files() -> list[Path]:
    owned = {path for venue in VENUE_CLASSES for path in own_files(venue)}
    found = []
    for name in SHARED:
        path = ROOT / name
        found += [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sorted(p for p in found if p.suffix in SUFFIXES and not is_generated(p) and p not in owned)


def mentions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of each line that speaks of a venue."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if NAMES.search(line) or CODES.search(line):
            yield number, line


def test_no_shared_file_speaks_of_a_venue() -> None:
    offenders = []
    for path in shared_files():
        relative = str(path.relative_to(ROOT))
        exception = EXCEPTIONS.get(relative)
        offenders += [
            f"{relative}:{number}: {line.strip()}"
            for number, line in mentions(path)
            if exception is None or not re.search(exception.lines, line)
        ]

    assert offenders == []


@pytest.mark.parametrize("relative", EXCEPTIONS)
def test_every_exception_is_still_needed(relative: str) -> None:
    lines = [line for _, line in mentions(ROOT / relative)]

    assert any(re.search(EXCEPTIONS[relative].lines, line) for line in lines)


@pytest.mark.parametrize("venue", VENUE_CLASSES)
def test_a_venue_has_its_two_files_and_they_speak_of_no_other(venue: str) -> None:
    files = {str(path.relative_to(ROOT)) for path in own_files(venue)}
    others = re.compile("|".join(other for other in VENUE_CLASSES if other != venue), re.IGNORECASE)

    assert {f"daemon/ingest/venues/{venue}.py", f"native_pipeline/parse_{venue}.pyx"} <= files
    for path in (ROOT / f"daemon/ingest/venues/{venue}.py", ROOT / f"native_pipeline/parse_{venue}.pyx"):
        text = path.read_text(encoding="utf-8")
        assert [match.group() for match in others.finditer(text) if NAMES.search(match.group())] == [], path


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ('venue = "kis"', True),
        ("KisParser", True),
        ("kis_layouts", True),
        ("parse_upbit", True),
        ("KIS_APP_KEY", True),
        ("OPSP8996: fast retries", True),
        ("H0STCNT0", True),
        ("R10001", True),
        ("kiss, skis and KISS", False),
        ("risk", False),
        ("upbitten", False),
        ("H0ST", False),
    ],
)
def test_the_test_knows_a_name_from_a_word(text: str, is_found: bool) -> None:
    assert is_found == bool(NAMES.search(text) or CODES.search(text))
