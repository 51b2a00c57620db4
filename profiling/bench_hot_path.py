"""Question: how much CPU does one H0STCNT0 frame cost from the loopback socket to the record in the ring?

    sender process --(ready-made frames over TCP)--> picows on uvloop -> FrameListener -> KisParser -> ring file

CPU time (user and system) of the receiving process between the first and the last frame, divided by the frames. The
baselines do the same in the same run, with the same frames: (a) a Python subclass of picows' WSListener that splits,
converts and packs with struct and appends with RingWriter.append; (b) the same Python parse behind the `websockets`
client as its documentation shows it (asyncio, its defaults), and (c) tuned for it: uvloop, no compression, no pings.
The ring has been written once before, so that its pages are there, as they are from the second lap on.
Frames are all different in symbol, time, price and volume. Several rounds of all receivers in turn; medians and
spread, a ratio being taken within its round. Checks its own answer: the number of records in the ring and the sum of
their volumes.

    python profiling/bench_hot_path.py [--json] [--frames N] [--repeats N]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import platform
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import picows
import uvloop
import websockets

from native_pipeline.counters import CountersBlock, create_counters_file
from native_pipeline.frame_listener import FrameListener
from native_pipeline.parse_kis import KisParser
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_file import HEADER_BYTES
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from profiling.bench_parse import trade_fields
from profiling.bench_ring import native_loops

TARGETS = {"ns_per_frame": 800, "ratio_to_python_listener": 5, "ratio_to_websockets": 50}
# Of 200 symbols, each trade continuing the cumulative volume of the one before, as in one session: sent once, because a
# repetition would be judged as one.
DISTINCT_FRAMES = 800_000
PYTHON_SHARE = WEBSOCKETS_SHARE = 1
RING_BYTES = 256 << 20  # a run fills 7/8 of it at most: nothing reads meanwhile
TRADE, VENUE, MARKET = 1, 1, 1
SYMBOL_FIELD, TIME_FIELD, VOLUME_FIELD, CUM_VOLUME_FIELD = 0, 1, 12, 13
SEED = 20261120
ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
BODY = struct.Struct("<24sq6q6BBx")
DAY_NS = 1_795_100_400 * 10**9  # 2026-11-20 00:00 KST

Receiver = Callable[[str, RingWriter, int], Coroutine[None, None, int]]


# ---- the sender ------------------------------------------------------------------------------------------------------


def build_frames() -> tuple[list[bytes], list[int]]:
    """DISTINCT_FRAMES unmasked WebSocket frames of one trade each, and the trades' volumes."""
    rng = random.Random(SEED)
    frames, volumes = [], []
    reached: dict[str, int] = {}
    clocks: dict[str, str] = {}
    for _ in range(DISTINCT_FRAMES):
        fields = trade_fields(rng)
        symbol = fields[SYMBOL_FIELD]
        fields[TIME_FIELD] = clocks.setdefault(symbol, fields[TIME_FIELD])
        reached[symbol] = reached.get(symbol, rng.randrange(1_000_000)) + int(fields[VOLUME_FIELD])
        fields[CUM_VOLUME_FIELD] = str(reached[symbol])
        payload = f"0|H0STCNT0|001|{'^'.join(fields)}".encode("ascii")
        frames.append(struct.pack(">BBH", 0x81, 126, len(payload)) + payload)
        volumes.append(int(fields[VOLUME_FIELD]))
    return frames, volumes


def send(file: str, rounds: int) -> None:
    """Body of the sender process: print the port, send one client the bytes of *file*, *rounds* times."""
    data = Path(file).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        client, _ = server.accept()
        with client:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            lines = request.split(b"\r\n")
            key = next(line[18:].strip() for line in lines if line.lower().startswith(b"sec-websocket-key:"))
            accept = base64.b64encode(hashlib.sha1(key + ACCEPT_GUID).digest())
            client.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            try:
                for _ in range(rounds):
                    client.sendall(data)
                while client.recv(4096):
                    pass
            except ConnectionError:
                pass  # the receiver has what it wants


@contextmanager
def sender(file: Path, rounds: int) -> Iterator[str]:
    """The URL of a sender in its own process."""
    with subprocess.Popen(
        [sys.executable, __file__, "--send", str(file), "--rounds", str(rounds)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"ws://127.0.0.1:{process.stdout.readline().strip()}/"
        finally:
            process.kill()


# ---- the three receivers: each returns the CPU time from the first frame to the last ---------------------------------


async def native(url: str, ring: RingWriter, frames: int) -> int:
    """The product."""
    with tempfile.NamedTemporaryFile() as file:
        create_counters_file(file.name, 1)
        closed = asyncio.Event()
        listener = FrameListener(
            ring, KisParser(venue=VENUE, market=MARKET), CountersBlock(file.name, 0), lambda _: None, closed.set
        )
        begin = time.process_time_ns()
        transport, _ = await picows.ws_connect(lambda: listener, url, enable_auto_pong=False, use_aiofastnet=False)
        while listener.frames < frames:
            await asyncio.sleep(0.002)
        elapsed = time.process_time_ns() - begin
        transport.disconnect(graceful=False)
        await closed.wait()
        return elapsed


def append_trade(ring: RingWriter, text: str, recv_ns: int) -> None:
    """What a careful Python programmer writes: split, convert, pack, append."""
    _flag, tr, _count, payload = text.split("|", 3)
    if tr != "H0STCNT0":
        return
    fields = payload.split("^")
    clock = fields[1]
    seconds = int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + int(clock[4:])
    price, ask, bid, change = float(fields[2]), float(fields[10]), float(fields[11]), float(fields[5])
    body = BODY.pack(
        fields[0].encode(), DAY_NS + seconds * 10**9, int(price), int(fields[12]), int(fields[13]), int(ask), int(bid),
        round(change * 100), 0, 0, 0, 0, 0, 2, 1 if fields[21] == "1" else 2,
    )  # fmt: skip
    ring.append(TRADE, body, venue=VENUE, market=MARKET, recv_ns=recv_ns, utc_offset_min=540)


class PythonListener(picows.WSListener):
    """The same work in a Python subclass of picows' listener."""

    def __init__(self, ring: RingWriter) -> None:
        super().__init__()
        self.ring = ring
        self.frames = 0
        self.recv_ns = 0

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if self.recv_ns == 0:
            self.recv_ns = time.time_ns()
        append_trade(self.ring, frame.get_payload_as_ascii_text(), self.recv_ns)
        self.frames += 1
        if frame.last_in_buffer:
            self.ring.publish()
            self.recv_ns = 0


async def python_listener(url: str, ring: RingWriter, frames: int) -> int:
    """Baseline (a)."""
    listener = PythonListener(ring)
    begin = time.process_time_ns()
    transport, _ = await picows.ws_connect(lambda: listener, url, enable_auto_pong=False)
    while listener.frames < frames:
        await asyncio.sleep(0.002)
    elapsed = time.process_time_ns() - begin
    transport.disconnect(graceful=False)
    await transport.wait_disconnected()
    return elapsed


async def websockets_client(url: str, ring: RingWriter, frames: int) -> int:
    """Baseline (b)."""
    begin, seen = time.process_time_ns(), 0
    async with websockets.connect(url) as connection:
        async for message in connection:
            append_trade(ring, str(message), time.time_ns())
            ring.publish()
            seen += 1
            if seen == frames:
                break
        elapsed = time.process_time_ns() - begin
        connection.transport.abort()
    return elapsed


async def websockets_tuned(url: str, ring: RingWriter, frames: int) -> int:
    """Baseline (c)."""
    begin = time.process_time_ns()
    connection = await websockets.connect(url, compression=None, ping_interval=None, max_size=None)
    for _ in range(frames):
        append_trade(ring, str(await connection.recv(decode=True)), time.time_ns())
        ring.publish()
    elapsed = time.process_time_ns() - begin
    connection.transport.abort()
    return elapsed


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(receiver: Receiver, directory: Path, file: Path, rounds: int, volume: int) -> tuple[float, float]:
    """One run into a fresh ring, checked; (CPU ns, wall ns) a frame."""
    path = directory / "bench.ring"
    create_ring(path, ring=0, capacity_bytes=RING_BYTES, consumers=(("writer", GATING),))
    with path.open("r+b") as file_of_ring:
        file_of_ring.seek(HEADER_BYTES)
        for _ in range(RING_BYTES >> 20):
            file_of_ring.write(bytes(1 << 20))
    frames = rounds * DISTINCT_FRAMES
    try:
        ring = RingWriter(path)
        with sender(file, rounds) as url:
            begin = time.monotonic_ns()
            cpu = run(receiver(url, ring, frames), plain=receiver is websockets_client)
            wall = time.monotonic_ns() - begin
        reader = GatingReader(path, "writer")
        found = native_loops().consume(reader, frames)
        if (frames, rounds * volume) != (found[0], found[2]) or ring.last_seq - ring.first_seq + 1 != frames:
            sys.exit(f"wrong answer: expected {frames} records of volume {rounds * volume}, found {found}")
        return cpu / frames, wall / frames
    finally:
        path.unlink()


def run(main: Coroutine[None, None, int], *, plain: bool) -> int:
    """Run *main* on uvloop, as the worker does, or on asyncio's own loop."""
    if plain:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("--frames", type=int, default=DISTINCT_FRAMES, help="of each native run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--send", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        send(options.send, options.rounds)
        return

    native_loops()
    frames, volumes = build_frames()
    receivers: dict[str, tuple[Receiver, int]] = {
        "native": (native, 1), "python_listener": (python_listener, PYTHON_SHARE),
        "websockets": (websockets_client, WEBSOCKETS_SHARE), "websockets_tuned": (websockets_tuned, WEBSOCKETS_SHARE),
    }  # fmt: skip
    cpu: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "frames"
        file.write_bytes(b"".join(frames))
        for _ in range(options.repeats):  # one after the other, so that a slow moment of the machine hits all of them
            for receiver_name, (receiver, share) in receivers.items():
                rounds = max(1, options.frames // share // DISTINCT_FRAMES)
                cpu_ns, wall_ns = measure(receiver, Path(name), file, rounds, sum(volumes))
                cpu.setdefault(receiver_name, []).append(cpu_ns)
                wall.setdefault(receiver_name, []).append(wall_ns)
    ns = {receiver_name: statistics.median(values) for receiver_name, values in cpu.items()}
    by_repeat = {
        f"ratio_to_{receiver_name}": [other / own for other, own in zip(cpu[receiver_name], cpu["native"], strict=True)]
        for receiver_name in receivers if receiver_name != "native"
    }  # fmt: skip
    ratios = {key: round(statistics.median(values), 1) for key, values in by_repeat.items()}
    result = {
        "bench": "hot_path",
        "question": "CPU ns per H0STCNT0 frame, loopback socket to ring",
        "machine": {"cpu": platform.processor() or platform.machine(), "cpus": os.cpu_count()},
        "frames": options.frames, "frame_bytes": round(sum(map(len, frames)) / len(frames)), "repeats": options.repeats,
        "ns_per_frame": round(ns["native"]),
        "cpu_ns": {
            key: {"median": round(ns[key]), "min": round(min(values)), "max": round(max(values))}
            for key, values in cpu.items()
        },
        "frames_per_s": {key: round(1e9 / statistics.median(values)) for key, values in wall.items()},
        **ratios,
        "ratio_spread": {key: [round(min(values), 1), round(max(values), 1)] for key, values in by_repeat.items()},
        "targets": TARGETS,
        "reached": ns["native"] <= TARGETS["ns_per_frame"] and all(
            ratios[key] >= TARGETS[key] for key in ratios if key in TARGETS
        ),
    }  # fmt: skip
    if not options.json:
        for key, value in ns.items():
            print(f"{key:16} {value:9.0f} ns of CPU a frame")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
