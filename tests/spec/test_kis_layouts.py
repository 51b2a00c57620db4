"""The table of KIS record layouts: what people edit is what the parser was compiled with."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_pipeline import kis_layouts
from native_pipeline.parse_kis import native_layouts

pytestmark = pytest.mark.requirement("SCH-01")


def test_the_table_compiled_in_is_the_one_in_the_data_file() -> None:
    layouts = kis_layouts.load_layouts()
    for row in layouts.values():
        del row["title"]
        row["needed"] = max(kis_layouts.positions(row)) + 1

    assert layouts == native_layouts()


def test_the_generated_header_is_up_to_date() -> None:
    assert kis_layouts.render(kis_layouts.load_layouts()) == kis_layouts.HEADER_PATH.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[H0STCNT0]", "[H0STCNT]", "8 ASCII characters"),
        ("side = 21", "sied = 21", "unknown keys"),
        ("price = 2\n", "", r"needs \['price'\]"),
        ("date = 33", "date = 46", "positions must be below"),
        ("max_width = 55", "max_width = 128", "<= 127"),
        ("41, 42]", "41]", "one length"),
    ],
)
def test_a_table_that_a_parser_could_not_use_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = kis_layouts.TABLE_PATH.read_text(encoding="utf-8")
    assert old in text
    table = tmp_path / "kis_layouts.toml"
    table.write_text(text.replace(old, new, 1), encoding="utf-8")

    with pytest.raises(ValueError, match=message):
        kis_layouts.load_layouts(table)
