"""`sise recover` where no server is needed to know the answer."""

from pathlib import Path

import pytest

from daemon.config import Config
from daemon.sinks.recover_now import recover
from daemon.sinks.spill import DIRECTORY


def test_without_spilled_batches_there_is_nothing_to_do(tmp_path: Path) -> None:
    told: list[str] = []

    assert recover(Config(data_dir=str(tmp_path)), tell=told.append) == 0
    assert told == ["nothing to do: no batch is spilled"]


@pytest.mark.requirement("DLP-03")
def test_a_directory_that_cannot_be_read_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).write_bytes(b"")
    told: list[str] = []

    assert recover(Config(data_dir=str(tmp_path)), tell=told.append) == 1
    assert told == [f"{DIRECTORY} cannot be read: [Errno 20] Not a directory: '{tmp_path / DIRECTORY}'"]


@pytest.mark.requirement("DLP-03")
def test_a_spill_file_under_a_name_of_its_own_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / "backup_of_monday.spill").write_bytes(b"")
    told: list[str] = []

    assert recover(Config(data_dir=str(tmp_path)), tell=told.append) == 1
    assert told == ["backup_of_monday.spill cannot be read: its name is not batch_TIME_UUID.spill, as it was"]

    (tmp_path / DIRECTORY / "backup_of_monday.spill").unlink()
    assert recover(Config(data_dir=str(tmp_path)), tell=told.append) == 0
