"""The documents say what the code says: links lead somewhere, names exist, generated files are what is made now."""

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from daemon.config import Config

pytestmark = pytest.mark.requirement("DOC-01")

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
OPERATIONS = DOCS / "operations.md"
DECISIONS = DOCS / "decisions"
SOURCES = ("daemon", "native_pipeline", "profiling", "tests", "docs")

LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:)([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?:daemon|native_pipeline|tests|profiling|docs|deploy)/[\w./-]*")
FUNCTION = re.compile(r"(?:(\w+)\.)?(\w+)\(\)")
METRIC = re.compile(r"\bsise_[a-z_]+")
SETTING = re.compile(r"\b(" + "|".join(f for f in Config.__struct_fields__) + r")\.([a-z_]+)")
CRASH_POINT = re.compile(r"^\| `(\w+\.\w+)` \|", re.MULTILINE)  # rows of the table of crash points
NOT_SETTINGS = ("http.client",)  # what else looks like one
SECTIONS = ("Context", "Decision", "Consequences")
LOUD = frozenset({"warning", "error", "critical", "exception"})
MAX_LINES = 60  # of a decision record: under a page


def documents() -> list[Path]:
    """Every Markdown file of ours."""
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "profiling").glob("*.md")])


def prose(path: Path) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


@cache
def load_generator() -> ModuleType:
    """docs/generate.py, which lies outside every package."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def names_in(path: Path) -> set[str]:
    """Every class and function that is defined in a Python or Cython file."""
    text = path.read_text(encoding="utf-8")
    found = set(re.findall(r"^\s*(?:cdef |cpdef )?(?:class|(?:async )?def)\s+(\w+)", text, re.MULTILINE))
    return found | set(re.findall(r"^\s*c(?:p)?def\b[^\n(=]*?(\w+)\(", text, re.MULTILINE))


def paragraphs(text: str) -> Iterator[str]:
    """Blocks of text between empty lines; each numbered item and each table row is one of its own."""
    for block in re.split(r"\n\s*\n", text):
        yield from re.split(r"\n(?=\d+\. |\|)", block)


def loud_events() -> set[str]:
    """The literal event of every log call in the daemon at warning and above."""
    found = set()
    for path in (ROOT / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOUD:
                event = node.args[0] if node.args else None
                if isinstance(event, ast.Constant) and isinstance(event.value, str):
                    found.add(event.value)
    return found


def table_events() -> set[str]:
    """The first column of the event table in operations.md."""
    table = OPERATIONS.read_text(encoding="utf-8").partition("## Log events")[2]
    return set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(prose(path))]

    assert [target for target in targets if target and not (path.parent / target).exists()] == []


def test_the_policies_are_what_the_settings_say_now() -> None:
    generator = load_generator()

    assert generator.POLICIES.read_text(encoding="utf-8") == generator.policies(), "run: python docs/generate.py"


def test_the_registry_is_what_the_markers_say_now() -> None:
    generator = load_generator()

    assert generator.REGISTRY.read_text(encoding="utf-8") == generator.registry(), "run: python docs/generate.py"


def test_every_setting_of_the_schema_has_a_policy() -> None:
    definitions = msgspec.json.schema(Config)["$defs"]
    keys = {name for definition in definitions.values() for name in definition["properties"]}
    settings = load_generator().read_settings((ROOT / "daemon" / "config.py").read_text(encoding="utf-8"))
    sections = {part.removesuffix("[]") for setting in settings for part in setting.key.split(".")[:-1]}

    assert keys == {setting.key.split(".")[-1] for setting in settings} | sections


def test_the_owner_of_every_policy_is_a_file_that_knows_its_key() -> None:
    for key, reason in load_generator().tomllib.loads((DOCS / "policies.toml").read_text(encoding="utf-8")).items():
        owner = ROOT / reason["owner"]
        assert owner.exists(), key
        assert key.split(".")[-1] in owner.read_text(encoding="utf-8"), key


def test_every_marker_names_a_requirement_of_the_list() -> None:
    generator = load_generator()
    known = generator.tomllib.loads(generator.REQUIREMENTS_SOURCE.read_text(encoding="utf-8"))["requirements"]

    assert {name for proof in generator.read_proofs() for name in proof.requirements} <= known.keys()


def test_results_of_a_run_are_dated_only_where_every_case_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load_generator()
    report = tmp_path / "junit.xml"
    here = "tests.spec.test_docs"
    report.write_text(
        '<testsuites><testsuite timestamp="2026-11-23T04:05:06">'
        f'<testcase classname="{here}" name="test_every_relative_link_leads_to_a_file[a]"/>'
        f'<testcase classname="{here}" name="test_every_relative_link_leads_to_a_file[b]"><failure/></testcase>'
        f'<testcase classname="{here}" name="test_every_marker_names_a_requirement_of_the_list"/>'
        f'<testcase classname="{here}" name="test_that_is_gone"/></testsuite></testsuites>'
    )
    verified = tmp_path / "verified.json"
    verified.write_text("{}")
    monkeypatch.setattr(generator, "VERIFIED", verified)

    generator.note_verified(report)

    expected = {"tests/spec/test_docs.py::test_every_marker_names_a_requirement_of_the_list": "2026-11-23"}
    assert json.loads(verified.read_text()) == expected


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    if path.name == "README.md" and path.parent == ROOT / "profiling":
        pytest.skip("names files of other projects")
    named = [match for code in CODE.findall(prose(path)) for match in PATH.findall(code)]

    assert [name for name in named if not (ROOT / name.rstrip("./")).exists()] == []


def test_every_function_that_the_architecture_names_is_in_a_file_named_beside_it() -> None:
    checked = 0
    for paragraph in paragraphs(prose(ARCHITECTURE)):
        codes = CODE.findall(paragraph)
        paths = [ROOT / code for code in codes if PATH.fullmatch(code) and (ROOT / code).is_file()]
        candidates = paths or [p for s in SOURCES for p in (ROOT / s).rglob("*.py*") if p.suffix in (".py", ".pyx")]
        for owner, name in [match.groups() for code in codes if (match := FUNCTION.fullmatch(code))]:
            wanted = {name} | ({owner} if owner else set())
            assert any(wanted <= names_in(path) for path in candidates), f"{owner}.{name}() in {paragraph[:80]!r}"
            checked += 1
    assert checked >= 20  # the life of a tick names that many


def test_the_architecture_names_a_file_and_a_function_in_every_step() -> None:
    life = prose(ARCHITECTURE).partition("## The life of a tick")[2].partition("\n## ")[0]
    steps = [paragraph for paragraph in paragraphs(life) if re.match(r"\s*\d+\. ", paragraph)]

    assert len(steps) == 7
    for step in steps:
        codes = CODE.findall(step)
        assert any(PATH.fullmatch(code) for code in codes), step
        assert any(FUNCTION.fullmatch(code) for code in codes), step


@pytest.mark.parametrize("path", sorted(DECISIONS.glob("*.md")), ids=lambda path: path.stem)
def test_every_decision_is_listed_and_has_its_three_sections_on_a_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert re.fullmatch(r"\d{3}-[a-z0-9-]+", path.stem)
    assert f"(decisions/{path.name})" in (DOCS / "HISTORY.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS)
    assert len(text.splitlines()) <= MAX_LINES


def test_no_two_decisions_have_the_same_number() -> None:
    numbers = [path.stem[:3] for path in sorted(DECISIONS.glob("*.md"))]

    assert numbers == [f"{number:03}" for number in range(1, len(numbers) + 1)]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_metric_that_a_document_names_exists(path: Path) -> None:
    from native_pipeline.counters import COUNTERS  # noqa: PLC0415 - the other tests need no native module

    families = re.findall(r'"(sise_[a-z_]+)"', (ROOT / "daemon/watching/metrics.py").read_text(encoding="utf-8"))
    known = {f"sise_{name}" for name, _, _ in COUNTERS} | set(families)
    known |= {f"sise_{name.removesuffix('_ns')}_timestamp_seconds" for name, unit, _ in COUNTERS if unit == "ns"}
    named = [name for code in CODE.findall(prose(path)) for name in METRIC.findall(code)]

    assert [name for name in named if name not in known and name.removesuffix("_total") not in known] == ["sise_"] * (
        named.count("sise_")
    )


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_setting_that_a_document_names_exists(path: Path) -> None:
    keys = {setting.key for setting in load_generator().read_settings((ROOT / "daemon/config.py").read_text())}
    named = [code for code in CODE.findall(prose(path)) if SETTING.fullmatch(code)]

    crash_points = set(CRASH_POINT.findall((DOCS / "formats.md").read_text(encoding="utf-8")))
    assert [name for name in named if name not in {*keys, *NOT_SETTINGS, *crash_points}] == []


@pytest.mark.requirement("DLP-01")
def test_every_place_to_crash_at_has_a_row_that_says_what_it_leaves_behind_and_a_test_that_crashes_there() -> None:
    daemon = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "daemon").rglob("*.py"))
    ring = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "native_pipeline").glob("ring_*.pyx"))
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__))
    claims = set(re.findall(r'part: ClassVar\[str\] = "(\w+)"', daemon)) - {"question"}  # which changes nothing
    points = set(re.findall(r'\breach\("(\w+\.\w+)"\)', daemon)) | set(re.findall(r'"(ring\.\w+)"', ring))
    points |= {f"{claim}.before_commit" for claim in claims}

    rows = CRASH_POINT.findall((DOCS / "formats.md").read_text(encoding="utf-8"))

    assert sorted(rows) == sorted(points)
    assert [point for point in rows if f'"{point}"' not in tests] == []


def test_every_log_event_that_asks_for_attention_is_explained() -> None:
    assert loud_events() - table_events() == set()


def test_every_explained_log_event_is_one() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "daemon").rglob("*.py"))

    assert [event for event in sorted(table_events()) if f'"{event}"' not in source] == []


def test_the_starter_file_and_the_readme_show_the_same_settings() -> None:
    from daemon.config import STARTER  # noqa: PLC0415

    generator = load_generator()
    example = re.search(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None

    assert generator.tomllib.loads(STARTER) == generator.tomllib.loads(example[1])
