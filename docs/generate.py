"""Write docs/policies.md and docs/test_registry.md from the code: `python docs/generate.py`.

policies.md: the fields, types and defaults of daemon/config.py, joined with docs/policies.toml (why, effect, owner),
and the fixed numbers of the daemon with their comments. test_registry.md: docs/requirements.toml joined with the
requirement markers in tests/ and with docs/verified.json.

    python docs/generate.py                         write both
    python docs/generate.py --verified junit.xml    first note what passed in that run (`pytest --junitxml=junit.xml`)
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIG = ROOT / "daemon" / "config.py"
POLICIES_SOURCE = DOCS / "policies.toml"
REQUIREMENTS_SOURCE = DOCS / "requirements.toml"
VERIFIED = DOCS / "verified.json"
POLICIES = DOCS / "policies.md"
REGISTRY = DOCS / "test_registry.md"

GENERATED = "<!-- Written by `python docs/generate.py`; a test compares. Edit its sources, not this file. -->"
# Only names that say what they measure: the others are identifiers and places in files.
CONSTANT_NAME = re.compile(
    r"[A-Z][A-Z0-9_]*(_S|_NS|_BYTES|_MINUTES|_SHARE|_JITTER|_ATTEMPTS|_AT_STOP|_AHEAD|_PER_INTERVAL)|MARGIN"
)
# Whose constants are decisions about running the daemon, not parts of a wire format or of a test bench.
CONSTANT_PACKAGES = ("ingest", "sinks", "supervision", "watching")
DAY_REPORT, NIGHT_REPORT = "junit.xml", "junit-nightly.xml"  # as the Makefile has them
# By whether the test, and whether any case of it, runs at night only: how it is run, and which reports tell of it.
METHODS = {
    (False, False): ("`make test`", f"`{DAY_REPORT}`"),
    (False, True): ("`make test`, more cases in `make nightly`", f"`{DAY_REPORT}`, `{NIGHT_REPORT}`"),
    (True, True): ("`make nightly`", f"`{NIGHT_REPORT}`"),
}


# ---- settings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One field of one settings class."""

    key: str
    allowed: str
    default: str
    comment: str


def read_settings(text: str) -> list[Setting]:
    """Return every field of the classes of config.py, as keys of the file, in the order of the source."""
    lines = text.splitlines()
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    return list(_settings_of(classes["Config"], classes, lines, prefix=""))


def _settings_of(
    owner: ast.ClassDef, classes: Mapping[str, ast.ClassDef], lines: Sequence[str], prefix: str
) -> Iterator[Setting]:
    nested: list[tuple[str, ast.ClassDef]] = []
    for node in owner.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        annotation = ast.unparse(node.annotation)
        section = re.fullmatch(r"(?:tuple\[)?(\w+)(, \.\.\.\])?", annotation)
        if section and section[1] in classes:
            name = f"{node.target.id}[]" if section[2] else node.target.id
            nested.append((f"{prefix}{name}.", classes[section[1]]))
            continue
        default = "required" if node.value is None else _default(ast.unparse(node.value))
        yield Setting(prefix + node.target.id, _allowed(annotation), default, _comment(lines, node))
    for inner, section_class in nested:
        yield from _settings_of(section_class, classes, lines, inner)


def _default(expression: str) -> str:
    if re.fullmatch(r"[\d_]+( \* [\d_]+)+", expression):
        value = 1
        for factor in expression.split(" * "):
            value *= int(factor)
        return f"{value:_}"
    return {"None": "none", "''": "empty", "()": "empty"}.get(expression, expression.replace("'", '"'))


def _allowed(annotation: str) -> str:
    """Say in words what the annotation allows."""
    bounds = re.findall(r"\b(ge|gt|le|lt)=([\d.]+)", annotation)
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    named = {"PositiveInt": "whole number >= 1", "PositiveFloat": "number > 0", "Secret": "secret", "Url": "URL"}
    choices = re.search(r"Literal\[(.*?)\]", annotation)
    if choices:
        found = " or ".join(choices[1].replace("'", '"').split(", "))
    elif bounds:
        kind = "number" if "float" in annotation else "whole number"
        found = f"{kind} " + " and ".join(f"{signs[sign]} {limit}" for sign, limit in bounds)
    else:
        found = next((text for name, text in named.items() if name in annotation), "text")
    return f"list of: {found}" if annotation.startswith(("tuple", "Annotated[tuple")) else found


def _comment(lines: Sequence[str], node: ast.stmt) -> str:
    """Return the comment behind the statement or, failing that, directly above it."""
    behind = re.search(r"  # (.*)$", lines[(node.end_lineno or node.lineno) - 1])
    if behind:
        return "" if behind[1].startswith(("noqa", "type:")) else behind[1]
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("# "):
            break
        above.insert(0, line.strip().removeprefix("# "))
    return " ".join(above)


def read_constants() -> Iterator[tuple[str, str, str, str]]:
    """Yield (file, name, value, comment) of every number at the top of a module that has a comment."""
    for package in CONSTANT_PACKAGES:
        for path in sorted((ROOT / "daemon" / package).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            lines = text.splitlines()
            for node in ast.parse(text).body:
                if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                    continue
                name, value = node.targets[0].id, ast.unparse(node.value)
                is_number = re.fullmatch(r"[\d_.eE+*<\s]+", value)
                if CONSTANT_NAME.fullmatch(name) and is_number and (comment := _comment(lines, node)):
                    yield path.relative_to(ROOT).as_posix(), name, value, comment


def policies() -> str:
    """Return the text of policies.md."""
    reasons: Mapping[str, Mapping[str, str]] = tomllib.loads(POLICIES_SOURCE.read_text(encoding="utf-8"))
    settings = read_settings(CONFIG.read_text(encoding="utf-8"))
    if unpaired := {setting.key for setting in settings} ^ reasons.keys():
        raise SystemExit(f"in only one of {POLICIES_SOURCE.name} and {CONFIG.name}: {', '.join(sorted(unpaired))}")
    text = [
        "# Policies: every number that can be tuned",
        GENERATED,
        "Settings are keys of the TOML file; `[]` stands for each entry of a list of tables. Any key can be set in the "
        "environment too: `SISE_DATABASE__BATCH_ROWS=5000`. `sise config show -c FILE` prints the values in force, "
        "`sise config schema` the JSON Schema. The owner is the module that reads the value.",
        "",
        "| key | default | allowed | why this value | effect of another | owner |",
        "|---|---|---|---|---|---|",
    ]
    for setting in settings:
        reason = reasons[setting.key]
        why = reason["why"] if not setting.comment else f"{reason['why']} ({setting.comment})"
        cells = (f"`{setting.key}`", f"`{setting.default}`", setting.allowed, why, reason["effect"])
        text.append(_row(*cells, f"`{reason['owner']}`"))
    text += [
        "",
        "## Fixed numbers",
        "Not settings: nobody has needed another value yet. Each is at the top of its module, with its reason.",
        "",
        "| name | value | why | owner |",
        "|---|---|---|---|",
    ]
    text += [_row(f"`{name}`", f"`{value}`", why, f"`{path}`") for path, name, value, why in read_constants()]
    return "\n".join(text) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# ---- tests ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """One test function that carries a requirement marker."""

    path: str
    name: str
    requirements: tuple[str, ...]
    is_nightly: bool
    has_nightly: bool  # cases

    @property
    def node_id(self) -> str:
        """Key in verified.json: all parametrized cases together."""
        return f"{self.path}::{self.name}"


def read_proofs() -> list[Proof]:
    """Return the marked tests, in the order of files and lines. Markers may be on the function, class or module."""
    proofs: list[Proof] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        relative = path.relative_to(ROOT).as_posix()
        proofs += _proofs_in(module, relative, _module_marks(module), prefix="")
    return proofs


def _proofs_in(owner: ast.Module | ast.ClassDef, path: str, inherited: list[ast.expr], prefix: str) -> Iterator[Proof]:
    for node in owner.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _proofs_in(node, path, [*inherited, *node.decorator_list], f"{prefix}{node.name}::")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            marks = [*inherited, *node.decorator_list]
            requirements, is_nightly = _read_marks(marks)
            has_nightly = any("pytest.mark.nightly" in ast.unparse(mark) for mark in marks)
            if requirements:
                yield Proof(path, prefix + node.name, tuple(dict.fromkeys(requirements)), is_nightly, has_nightly)


def _module_marks(module: ast.Module) -> list[ast.expr]:
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            return list(node.value.elts) if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
    return []


def _read_marks(marks: Sequence[ast.expr]) -> tuple[list[str], bool]:
    requirements: list[str] = []
    is_nightly = False
    for mark in marks:
        text = ast.unparse(mark.func if isinstance(mark, ast.Call) else mark)
        is_nightly |= text == "pytest.mark.nightly"
        if text == "pytest.mark.requirement" and isinstance(mark, ast.Call):
            requirements += [ast.literal_eval(argument) for argument in mark.args]
    return requirements, is_nightly


def registry() -> str:
    """Return the text of test_registry.md."""
    summaries: Mapping[str, str] = tomllib.loads(REQUIREMENTS_SOURCE.read_text(encoding="utf-8"))["requirements"]
    verified: Mapping[str, str] = json.loads(VERIFIED.read_text(encoding="utf-8"))
    proofs = read_proofs()
    if unknown := {each for proof in proofs for each in proof.requirements} - summaries.keys():
        raise SystemExit(f"{REQUIREMENTS_SOURCE.name} lacks: {', '.join(sorted(unknown))}")
    by_requirement = {name: [proof for proof in proofs if name in proof.requirements] for name in summaries}
    text = [
        "# Test registry: which requirement is proved by which test",
        GENERATED,
        "A test carries the requirement it proves as a marker. A requirement may have more parts than its tests prove "
        "so far: what is missing is in [deferred_work.md](deferred_work.md). *Artifact*: the evidence a run leaves: "
        f"`{DAY_REPORT}` is written by `make test`, `{NIGHT_REPORT}` by `make nightly`, and both are read back by "
        f"`python docs/generate.py --verified {DAY_REPORT}`. *Last verified*: day of the last such run in which all "
        "cases of the test that it had passed.",
        "",
        "| requirement | what it says | tests |",
        "|---|---|---|",
    ]
    for name, summary in summaries.items():
        count = len(by_requirement[name])
        text.append(_row(f"[{name}](#{name.lower()})" if count else name, summary, str(count) if count else "none yet"))
    for name, found in by_requirement.items():
        if found:
            text += [
                "",
                f"## {name}",
                "",
                _row("test", "execution method", "artifact", "last verified"),
                "|---|---|---|---|",
            ]
            text += [_proof_row(proof, verified) for proof in found]
    return "\n".join(text) + "\n"


def _proof_row(proof: Proof, verified: Mapping[str, str]) -> str:
    link = f"[{proof.path.removeprefix('tests/')}](../{proof.path})"
    name = proof.name.removeprefix("test_").replace("_", " ").strip()
    how, artifact = METHODS[proof.is_nightly, proof.has_nightly]
    return _row(f"{link}: {name}", how, artifact, verified.get(proof.node_id, "never"))


def note_verified(report: Path) -> None:
    """Put the day of *report* beside every test that passed in it, all cases of it. Tests that are gone are dropped."""
    passed: dict[str, bool] = {}
    day = ""
    for suite in ElementTree.parse(report).iter("testsuite"):  # noqa: S314 - our own pytest wrote it
        day = suite.get("timestamp", "")[:10]
        for case in suite.iter("testcase"):
            name = case.get("name", "").partition("[")[0]
            has_passed = not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
            key = _node_id(case.get("classname", ""), name)
            passed[key] = passed.get(key, True) and has_passed
    known = {proof.node_id for proof in read_proofs()}
    before: dict[str, Any] = json.loads(VERIFIED.read_text(encoding="utf-8")) if VERIFIED.exists() else {}
    after = before | {key: day for key, has_passed in passed.items() if has_passed}
    kept = {key: after[key] for key in sorted(after) if key in known}
    VERIFIED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _node_id(dotted: str, name: str) -> str:
    """Return path::Class::name for pytest's `package.module.Class`."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        path = Path(*parts[:end]).with_suffix(".py")
        if (ROOT / path).is_file():
            return "::".join((path.as_posix(), *parts[end:], name))
    return f"{dotted}::{name}"


def main() -> None:
    """Write the generated documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verified", type=Path, metavar="JUNIT_XML", help="a report of pytest to take results from")
    arguments = parser.parse_args()
    if arguments.verified is not None:
        note_verified(arguments.verified)
    for path, text in ((POLICIES, policies()), (REGISTRY, registry())):
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
