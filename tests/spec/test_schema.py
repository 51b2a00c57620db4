"""Migrations as files: their numbers, variants and checksums, without a database."""

import pytest

from daemon.errors import ConfigError
from daemon.sinks import schema
from daemon.sinks.schema import Migration


def versions(migrations: list[Migration]) -> list[int]:
    return [migration.version for migration in migrations]


def test_files_are_applied_in_the_order_of_their_numbers() -> None:
    found = schema.read_migrations({"0002_later.sql": "b", "0001_first.sql": "a", "0003_last.sql": "c"})

    assert [(m.name, m.text) for m in found] == [("first", "a"), ("later", "b"), ("last", "c")]


def test_a_file_for_one_variant_has_a_counterpart_for_the_other() -> None:
    both = {"0001_a.sql": "", "0002_b.plain.sql": "", "0002_b.timescaledb.sql": ""}
    assert {"plain", "timescaledb", None} == {m.variant for m in schema.read_migrations(both)}

    only_one = {"0001_a.sql": "", "0002_b.plain.sql": "", "0003_c.sql": ""}
    with pytest.raises(ConfigError, match=r"migrations for timescaledb: .* found \[1, 3\]"):
        schema.read_migrations(only_one)


@pytest.mark.parametrize("files", [{"0001_a.sql": "", "0001_b.sql": ""}, {"0002_a.sql": ""}])
def test_a_number_used_twice_or_left_out_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="each once"):
        schema.read_migrations(files)


@pytest.mark.parametrize("name", ["1_a.sql", "0001-a.sql", "0001_a.oracle.sql", "0001_A.sql", "notes.sql"])
def test_a_file_with_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        schema.read_migrations({name: ""})


def test_only_what_was_not_applied_is_pending() -> None:
    migrations = schema.read_migrations({"0001_a.sql": "a", "0002_b.sql": "b"})
    applied = {1: ("a", migrations[0].checksum)}

    assert versions(schema.pending(migrations, applied)) == [2]
    assert versions(schema.pending(migrations, {})) == [1, 2]


def test_a_file_that_changed_after_it_was_applied_is_refused() -> None:
    before = schema.read_migrations({"0001_a.sql": "CREATE TABLE a ()"})
    after = schema.read_migrations({"0001_a.sql": "CREATE TABLE b ()"})

    with pytest.raises(ConfigError, match=r"0001_a\.sql differs from the one that was applied"):
        schema.pending(after, {1: ("a", before[0].checksum)})


def test_a_database_that_is_newer_than_the_program_is_refused() -> None:
    migrations = schema.read_migrations({"0001_a.sql": "a"})

    with pytest.raises(ConfigError, match=r"has migration 0002 \(b\)"):
        schema.pending(migrations, {1: ("a", migrations[0].checksum), 2: ("b", "")})


def test_the_packaged_migrations_are_complete_for_both_variants() -> None:
    packaged = schema.packaged_migrations()

    for variant in ("plain", "timescaledb"):
        assert len([m for m in packaged if m.variant in (None, variant)]) >= 3
