"""Messages are framed as RFC 6455 says; fragments of a message join to the message."""

import random

import pytest

from daemon.simulator import framing


def read_frames(data: bytes) -> list[tuple[bool, int, bytes]]:
    """The (FIN, opcode, payload) of each unmasked frame in *data*: a slow, obvious reader."""
    frames = []
    while data:
        first, length, start = data[0], data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        frames.append((first & 0x80 != 0, first & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return frames


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 8191, 8192, 65_535, 65_536, 200_000])
def test_a_message_of_any_length_is_one_frame(length: int) -> None:
    text = "x" * length

    assert [(True, 1, text.encode())] == read_frames(framing.frame(text).encode("latin-1"))


@pytest.mark.parametrize("seed", range(20))
def test_fragments_join_to_the_message(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(chr(draw.randint(1, 255)) for _ in range(draw.choice([0, 1, 5, 300, 70_000])))

    frames = read_frames("".join(framing.fragments(text, framing.random_cuts(len(text), draw))).encode("latin-1"))

    assert text.encode("latin-1") == b"".join(payload for _, _, payload in frames)
    assert [1] + [0] * (len(frames) - 1) == [opcode for _, opcode, _ in frames]
    assert [False] * (len(frames) - 1) + [True] == [fin for fin, _, _ in frames]
    assert len(frames) > 1
