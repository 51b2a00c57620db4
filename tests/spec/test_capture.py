"""The files of the raw capture: whole blocks, readable by everybody, whatever was cut off or damaged."""

import errno
import io
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from daemon.recording.capture import (
    HOUR_NS,
    CaptureDamaged,
    CapturedFrame,
    CaptureFile,
    Damage,
    decode_line,
    encode_line,
    file_name,
    hour_of,
    parse_name,
    read_lines,
    read_through,
)

pytestmark = pytest.mark.requirement("RAW-01")

NOON_NS = 1_795_132_800 * 10**9  # 2026-11-20 00:00 UTC


def line(seq: int, message: bytes = b"0|H0STCNT0|001|x", **changes: bool) -> bytes:
    fields = {"is_text": True, "is_redundant": False, **changes}
    return encode_line(message, recv_ns=NOON_NS + seq, worker=1, connection=2, venue="kis", seq=seq, **fields)


def written(path: Path, *blocks: tuple[int, int]) -> list[int]:
    """A file with a block for each (first seq, behind the last); return the size after each block."""
    file, sizes = CaptureFile(path, level=1), []
    for first, behind in blocks:
        file.append(b"".join(map(line, range(first, behind))), frames=behind - first, through={1: (7, behind - 1)})
        sizes.append(path.stat().st_size)
    file.close()
    return sizes


def seqs(path: Path) -> tuple[list[int], Damage]:
    damage = Damage()
    return [decode_line(each).seq for each in read_lines(path, damage)], damage


def test_the_name_says_venue_and_utc_hour() -> None:
    assert file_name("kis", hour_of(NOON_NS + HOUR_NS - 1)) == "kis_20261120_00.jsonl.zst"
    assert parse_name("kis_20261120_00.jsonl.zst") == ("kis", NOON_NS)
    assert [parse_name(name) for name in ("kis_20261120_24.jsonl.zst", "kis.jsonl.zst", "x")] == [None] * 3


@given(message=st.binary(max_size=300), is_text=st.booleans(), is_redundant=st.booleans())
def test_every_message_comes_back_byte_for_byte(message: bytes, is_text: bool, is_redundant: bool) -> None:
    encoded = line(5, message, is_text=is_text, is_redundant=is_redundant)
    frame = decode_line(encoded)

    assert encoded.count(b"\n") == 1
    assert (message, not is_text, is_redundant) == (frame.payload(), frame.binary, frame.redundant)
    assert (frame.recv_ns, frame.worker, frame.connection, frame.venue, frame.seq) == (NOON_NS + 5, 1, 2, "kis", 5)


def test_a_line_of_text_has_only_what_it_needs() -> None:
    assert line(1, "값".encode()) == (
        b'{"recv_ns":%d,"worker":1,"connection":2,"venue":"kis","seq":1,"frame":"\xea\xb0\x92"}\n' % (NOON_NS + 1)
    )


def test_a_file_is_private_and_every_reader_of_zstd_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "kis_20261120_00.jsonl.zst"
    written(path, (1, 4), (4, 6))

    stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes()), read_across_frames=True)
    assert stream.read() == b"".join(map(line, range(1, 6)))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_cut_anywhere_holds_its_whole_blocks_and_a_successor_goes_on_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    sizes = [0, *written(path, (1, 4), (4, 6))]
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = sum(size >= end for end in sizes) - 1
        expected = [[], [1, 2, 3], [1, 2, 3, 4, 5]][whole]

        if size >= 4:
            assert seqs(path) == (expected, Damage(is_torn=size not in sizes))
        assert read_through(path) == ({1: (7, expected[-1])} if expected else {})
        written(path, (8, 9))
        assert seqs(path) == ([*expected, 8], Damage())


def test_a_damaged_block_is_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    first, *_ = written(path, (1, 4), (4, 6), (6, 8))
    data = bytearray(path.read_bytes())
    data[first - 3] ^= 0x40
    path.write_bytes(data)

    assert seqs(path) == ([4, 5, 6, 7], Damage(blocks=1))


def test_a_damaged_end_counts_as_torn(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    written(path, (1, 4), (4, 6))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    assert seqs(path) == ([1, 2, 3], Damage(is_torn=True))


def test_a_refused_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "capture"
    file = CaptureFile(path, level=1)
    file.append(line(1), frames=1, through={1: (7, 1)})
    before = path.read_bytes()
    real, calls = os.pwrite, []

    def half(fd: int, data: bytes, offset: int) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="No space"):
        file.append(line(2), frames=1, through={1: (7, 2)})
    monkeypatch.undo()
    assert before == path.read_bytes()
    assert len(calls) == 2

    file.append(line(3), frames=1, through={1: (7, 3)})
    assert seqs(path) == ([1, 3], Damage())


def test_a_file_compressed_by_somebody_else_is_read(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(zstandard.compress(b"".join(map(line, range(1, 6)))))
    assert seqs(path) == ([1, 2, 3, 4, 5], Damage())
    path.write_bytes(path.read_bytes()[:-9])
    assert seqs(path)[1].is_torn

    path.write_bytes(b"no zstd at all")
    with pytest.raises(CaptureDamaged, match="is no zstd file"):
        seqs(path)


def test_a_message_that_is_not_the_base64_that_it_claims_is_refused() -> None:
    frame = CapturedFrame(recv_ns=1, worker=0, connection=0, venue="kis", seq=1, base64=True, frame="?")
    with pytest.raises(ValueError, match="base64"):
        frame.payload()
