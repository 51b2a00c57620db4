"""The shape of the code: dependencies point one way, units keep their internals, venues stay in their own files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.ingest.venues import VENUE_NAMES

ROOT = Path(__file__).parent.parent.parent
DAEMON = ROOT / "daemon"
NATIVE = ROOT / "native_pipeline"

# Who may know a venue by name, besides daemon/ingest/venues/<venue>.py, and why.
# The decisions of ingest: each is tested with lists of events, and knows neither sockets, clocks, tasks nor each other.
PURE = ("unexplained", "connection", "gaps", "router", "governor", "silence", "watchdog", "subscription_states")
# One decision in several files: the subscriptions of a session.
PURE_TOGETHER = {
    "correspondence": ("subscription_states",),
    "subscriptions": (
        "subscription_states",
        "subscription_view",
        "correspondence",
        "request_queue",
        "unexplained",
    ),
    "subscription_view": ("subscription_states", "correspondence"),
    "request_queue": ("subscription_states", "correspondence"),
}
PURE_MAY_IMPORT = {
    "__future__", "array", "bisect", "collections.abc", "enum", "typing", "msgspec",
    "daemon.errors", "daemon.ingest.venues.venue",
}  # fmt: skip


def modules(*directories: Path) -> list[Path]:
    return sorted(path for directory in directories for path in directory.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (module, names) of every import statement, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", tuple(alias.name for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """Return every module that *path* imports; `from a import b` counts as a, and as a.b where that is a module."""
    found = set()
    for module, names in imports(path):
        found.add(module)
        found |= {f"{module}.{name}" for name in names if (ROOT / module.replace(".", "/") / f"{name}.py").exists()}
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.requirement("ARCH-01")
def test_the_native_pipeline_does_not_know_the_daemon() -> None:
    for path in sorted(NATIVE.glob("*.p*")):
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi"}:
            found = re.findall(r"^\s*(?:from|import|cimport)\s+(daemon[\w.]*)", path.read_text(encoding="utf-8"), re.M)
            # The one tree of errors has a branch for rings; places to crash at are named in one module for both sides.
            assert set(found) <= {"daemon.errors", "daemon.failpoints"}, path


@pytest.mark.requirement("ARCH-01")
@pytest.mark.parametrize(
    ("package", "forbidden", "except_for"),
    [
        ("daemon.ingest", "daemon.sinks", ()),
        ("daemon.ingest", "daemon.watching", ()),
        ("daemon.ingest", "daemon.simulator", ()),
        ("daemon.sinks", "daemon.ingest", ("daemon.ingest.venues",)),  # the names of the ids in the records
        ("daemon.sinks", "daemon.watching", ()),
        ("daemon.sinks", "daemon.simulator", ()),
        ("daemon.watching", "daemon.ingest", ("daemon.ingest.venues",)),
        ("daemon.watching", "daemon.simulator", ()),
        ("daemon.simulator", "daemon.ingest", ()),
        ("daemon.simulator", "native_pipeline", ()),  # an oracle that shared our parser would share its bugs
        ("daemon.supervision", "daemon.ingest", ()),
        ("daemon.supervision", "daemon.sinks", ()),
        ("daemon.supervision", "daemon.watching", ()),
    ],
)
def test_packages_depend_one_way(package: str, forbidden: str, except_for: tuple[str, ...]) -> None:
    for path in modules(ROOT / package.replace(".", "/")):
        offenders = {m for m in imported_modules(path) if within(m, forbidden) and m not in except_for}
        assert offenders == set(), path


@pytest.mark.requirement("ARCH-01")
def test_only_the_command_line_imports_the_composition_root() -> None:
    importers = {dotted(path) for path in modules(DAEMON) if "daemon.topology" in imported_modules(path)}

    assert importers <= {"daemon.cli"}


@pytest.mark.requirement("ARCH-01")
def test_the_decisions_of_ingest_are_pure_and_know_nothing_of_each_other() -> None:
    for name in PURE:
        assert imported_modules(DAEMON / "ingest" / f"{name}.py") <= PURE_MAY_IMPORT, name
    for name, parts in PURE_TOGETHER.items():
        allowed = PURE_MAY_IMPORT | {f"daemon.ingest.{part}" for part in parts}
        assert imported_modules(DAEMON / "ingest" / f"{name}.py") <= allowed, name


@pytest.mark.requirement("ARCH-01")
def test_a_venue_does_not_know_another_one() -> None:
    venues = {path.stem: path for path in modules(DAEMON / "ingest" / "venues") if path.stem in VENUE_NAMES}
    for name, path in venues.items():
        others = {f"daemon.ingest.venues.{other}" for other in VENUE_NAMES if other and other != name}
        assert imported_modules(path) & others == set(), path


@pytest.mark.requirement("ARCH-01")
def test_no_module_imports_what_another_one_keeps_private() -> None:
    for path in modules(DAEMON):
        for module, names in imports(path):
            if within(module, "daemon") or within(module, "native_pipeline"):
                assert [name for name in names if name.startswith("_")] == [], path


@pytest.mark.requirement("ARCH-01")
def test_no_object_reaches_into_another_ones_private_parts() -> None:
    for path in modules(DAEMON / "ingest", DAEMON / "sinks", DAEMON / "supervision"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
                assert isinstance(node.value, ast.Name), f"{path}:{node.lineno}: {ast.unparse(node)}"
                assert node.value.id in {"self", "cls"}, f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.requirement("ARCH-01")
def test_no_module_is_a_drawer_for_unrelated_things() -> None:
    drawers = {"utils", "util", "helpers", "common", "base", "misc", "constants", "models"}

    assert [path for path in modules(DAEMON, NATIVE) if path.stem in drawers] == []


@pytest.mark.requirement("ARCH-01")
def test_no_module_outgrows_what_one_person_reads_in_one_go() -> None:
    limits = {".py": 500, ".pyx": 600, ".pxd": 600}
    paths = [*modules(DAEMON), *NATIVE.glob("*.pyx"), *NATIVE.glob("*.pxd")]
    too_long = {path for path in paths if len(path.read_text(encoding="utf-8").splitlines()) > limits[path.suffix]}

    assert too_long == set()


@pytest.mark.requirement("ARCH-01")
def test_only_the_configuration_reads_the_environment() -> None:
    # Tests arm failpoints; a setting would let the file of an operator kill a process, and native code has no settings.
    readers = {DAEMON / "config.py", DAEMON / "failpoints.py"}
    for path in modules(DAEMON):
        if path in readers:
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bos\.(environ|getenv)\b", text), path
