"""Two network namespaces with a link between them that delays, loses and reorders packets, from a seed.

`python lossy_link.py DELAY_S LOSS REORDER SEED` prints a line of JSON: the two namespaces as files for
`nsenter --net=`, and the addresses. It stands in for netem, which not every kernel has: a TUN device at each end, and
this process in the middle, which sees every IP packet. It needs root; everything is gone when it ends. SIGSTOP it, and
the link is cut.
"""

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

NEAR, FAR = "10.255.77.1", "10.255.77.2"  # nobody else is in these namespaces
PACKET_BYTES = 65536
CLONE_NEWNET = 0x4000_0000
TUNSETIFF = 0x4004_54CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PR_SET_PDEATHSIG = 1
LATER = 1.0  # a packet that is overtaken comes after so many more delays


def why_not() -> str:
    """Return why such a link cannot be made here; empty: it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"the program {program} is missing"
    done = subprocess.run(["unshare", "-n", "ip", "tuntap", "add", "t0", "mode", "tun"], capture_output=True)
    return "" if done.returncode == 0 else "this machine allows no network namespace with a TUN device"


def _make_end(address: str, peer: str) -> tuple[int, int]:
    """Move this process into a new namespace with one TUN device; return (the namespace, the device)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", b"far0", IFF_TUN | IFF_NO_PI))
    for words in (
        ("ip", "link", "set", "lo", "up"),
        ("ip", "addr", "add", address, "peer", peer, "dev", "far0"),
        ("ip", "link", "set", "far0", "up"),
    ):
        subprocess.run(words, check=True)
    return os.open("/proc/self/ns/net", os.O_RDONLY), device


def _forward(devices: tuple[int, int], delay_s: float, loss: float, reorder: float, draw: random.Random) -> None:
    """Carry packets until killed."""
    waiting: list[tuple[float, int, int, bytes]] = []
    numbers = itertools.count()
    poll = select.poll()
    for device in devices:
        poll.register(device, select.POLLIN)
    other = {devices[0]: devices[1], devices[1]: devices[0]}
    while True:
        wait_ms = None if not waiting else max(0.0, (waiting[0][0] - time.monotonic()) * 1000)
        for device, _ in poll.poll(wait_ms):
            packet = os.read(device, PACKET_BYTES)
            if draw.random() < loss:
                continue
            late_s = delay_s * (1 + (LATER if draw.random() < reorder else 0.0))
            heapq.heappush(waiting, (time.monotonic() + late_s, next(numbers), other[device], packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, device, packet = heapq.heappop(waiting)
            try:
                os.write(device, packet)
            except OSError:
                continue  # its queue is full: one more packet lost


def main(delay_s: str, loss: str, reorder: str, seed: str) -> None:
    """Make the link, say where it is, and carry packets."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    near, near_device = _make_end(NEAR, FAR)
    far, far_device = _make_end(FAR, NEAR)
    pid = os.getpid()
    where = {"near": f"/proc/{pid}/fd/{near}", "far": f"/proc/{pid}/fd/{far}", "near_ip": NEAR, "far_ip": FAR}
    print(json.dumps(where), flush=True)
    _forward((near_device, far_device), float(delay_s), float(loss), float(reorder), random.Random(seed))


PROGRAM = Path(__file__)

if __name__ == "__main__":
    main(*sys.argv[1:])
