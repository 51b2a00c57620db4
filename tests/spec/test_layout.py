"""The structs of layout.h and the tables of docs/formats.md are the same, and the compiler agrees with both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from native_pipeline.counters import BLOCK_BYTES
from native_pipeline.ring_creation import create_ring
from native_pipeline.ring_file import HEADER_BYTES, LAYOUT_VERSION
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.reference import packed_records
from tests.spec.ring_support import drain

ROOT = Path(__file__).parents[2]
LAYOUT = (ROOT / "native_pipeline" / "layout.h").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")

STRUCT = re.compile(r"typedef struct \{\n(.*?)\n\} (\w+);", re.DOTALL)
MEMBER = re.compile(r"^\s+(\w+) (\w+)((?:\[\w+\])*);\s*(?:/\*\s*(\d+)(?::.*?)? ?\*/)?\s*$")
SECTION = re.compile(r"^### (\w+)\n(.*?)(?=^##)", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", re.MULTILINE)
TYPE_BYTES = {
    "char": 1, "uint8_t": 1, "uint16_t": 2, "int16_t": 2, "uint32_t": 4, "int32_t": 4, "uint64_t": 8, "int64_t": 8,
}  # fmt: skip
DEFINES = {name: int(value) for name, value in re.findall(r"#define (SISE_\w+) (\d+)u?\b", LAYOUT)}


@dataclass(frozen=True)
class Field:
    """A field as the header or the documentation describes it."""

    offset: int
    size: int
    name: str


def structs() -> dict[str, list[Field]]:
    """Every struct of layout.h; checks on the way that the offsets in its comments are those that C computes."""
    found: dict[str, list[Field]] = {}
    sizes = dict(TYPE_BYTES)
    for body, struct in STRUCT.findall(LAYOUT):
        offset, fields, largest = 0, [], 1
        for line in body.splitlines():
            member = MEMBER.match(line)
            assert member, f"{struct}: {line!r} is not a member that this test understands"
            kind, name, dimensions, comment = member.groups()
            size = sizes[kind]
            alignment = min(size, 8)
            assert offset % alignment == 0, f"{struct}.{name} would be padded"
            largest = max(largest, alignment)
            for dimension in re.findall(r"\w+", dimensions):
                size *= DEFINES.get(dimension) or int(dimension)
            if comment is not None:
                assert offset == int(comment), f"{struct}.{name}: the comment says {comment}"
            else:
                assert kind == "sise_record_header", f"{struct}.{name} has no offset in its comment"
            fields.append(Field(offset, size, name))
            offset += size
        assert offset % largest == 0, f"{struct} would be padded at its end"
        sizes[struct] = offset
        found[struct] = fields
    return found


STRUCTS = structs()


@pytest.mark.parametrize("struct", STRUCTS)
def test_the_documentation_describes_every_field_of(struct: str) -> None:
    documented = {
        name: [Field(int(offset), int(size), field) for offset, size, field in ROW.findall(table)]
        for name, table in SECTION.findall(FORMATS + "\n##")
    }
    assert STRUCTS.keys() == documented.keys()
    assert STRUCTS[struct] == documented[struct]


def test_every_struct_is_asserted_in_the_header_with_its_true_size() -> None:
    for struct, fields in STRUCTS.items():
        size = fields[-1].offset + fields[-1].size
        asserted = re.search(rf"sizeof\({struct}\) == (\w+)", LAYOUT)
        if struct == "sise_index_entry":
            continue  # the assertion on sise_ring_header covers it
        assert asserted, f"no static_assert on sizeof({struct})"
        assert size == (DEFINES.get(asserted[1]) or int(asserted[1]))


def test_the_documented_version_and_sizes_are_those_of_the_program() -> None:
    assert DEFINES["SISE_LAYOUT_VERSION"] == LAYOUT_VERSION
    assert f"new `layout_version` (now {LAYOUT_VERSION})" in FORMATS
    assert HEADER_BYTES == 8192 == sum(field.size for field in STRUCTS["sise_ring_header"])
    assert BLOCK_BYTES == 8192 == sum(field.size for field in STRUCTS["sise_counters_block"])


@pytest.mark.parametrize(
    ("record", "struct"),
    [(packed_records.Trade(), "sise_trade"), (packed_records.Book(), "sise_book"),
     (packed_records.Quarantine(), "sise_quarantine"), (packed_records.Gap(), "sise_gap"),
     (packed_records.Ledger(), "sise_ledger"), (packed_records.Event(), "sise_event")],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_record_in_the_file_has_the_documented_size(
    tmp_path: Path, record: packed_records.Record, struct: str
) -> None:
    create_ring(tmp_path / "ring", ring=0, capacity_bytes=1 << 20)
    writer, reader = RingWriter(tmp_path / "ring"), GatingReader(tmp_path / "ring", "writer")
    packed_records.append(writer, record)
    writer.publish()
    assert [sum(field.size for field in STRUCTS[struct]) - 32] == [len(seen.body) for seen in drain(reader)]
