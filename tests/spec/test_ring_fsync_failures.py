"""A disk that refuses a sync of the ring and takes the next: what it did not take is not claimed before it is written.

Linux reports pages that could not be written once, and takes them for written from then on. `DISK` does the same to a
process, below the real calls: it write-protects the ring's pages to learn which change. A sync copies those to an
image, or is refused and forgets them. After a power loss, that image is all there is.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from errno import EIO
from pathlib import Path

import pytest

from daemon.ingest.ring_sync import RingSync
from native_pipeline.ring_file import RingFile
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter
from tests.spec.ring_support import BOOT_ID, QUARANTINE, drain, new_ring, patch, read_u64

BODY_BYTES = 3000  # neighbours share a page
RESUME_SEQ = 72  # offset in the file

DISK = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
enum { PAGE = 4096, PAGES = 1024 };
int disk_refusals; /* so many of the next syncs fail */
static int image;
static char *ring;
static size_t ring_bytes;
static volatile char changed[PAGES];
static int is_ring(int fd) {
    struct stat one, other;
    return !fstat(fd, &one) && !stat(getenv("RING"), &other) && one.st_ino == other.st_ino;
}
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    int is_watched = fd >= 0 && (protection & PROT_WRITE) && is_ring(fd);
    void *begin = (void *)syscall(SYS_mmap, address, size, is_watched ? PROT_READ : protection, flags, fd, offset);
    if (is_watched) ring = begin, ring_bytes = size;
    return begin;
}
int munmap(void *address, size_t size) {
    if (address == ring) ring = NULL;
    return syscall(SYS_munmap, address, size);
}
static void on_write(int number, siginfo_t *info, void *context) {
    size_t page = ((char *)info->si_addr - ring) / PAGE;
    if (!ring || page >= ring_bytes / PAGE) _exit(128 + number);
    changed[page] = 1;
    mprotect(ring + page * PAGE, PAGE, PROT_READ | PROT_WRITE);
}
__attribute__((constructor)) static void start(void) {
    struct sigaction action = {.sa_sigaction = on_write, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    image = open(getenv("IMAGE"), O_WRONLY | O_CLOEXEC);
}
int fdatasync(int fd) {
    char page[PAGE];
    if (!is_ring(fd)) return syscall(SYS_fdatasync, fd);
    int is_refused = disk_refusals > 0 && disk_refusals--;
    if (ring) mprotect(ring, ring_bytes, PROT_READ);
    for (long at = 0; at < PAGES; at++) {
        if (!changed[at]) continue;
        changed[at] = 0;
        if (!is_refused && pread(fd, page, PAGE, at * PAGE) == PAGE) pwrite(image, page, PAGE, at * PAGE);
    }
    return is_refused ? (errno = EIO, -1) : 0;
}
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("disk") / "disk.c"
    source.write_text(DISK)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", source.with_suffix(".so"), source], check=True)
    return source.with_suffix(".so")


def lead(life: Callable[..., list[object]], disk: Path, directory: Path, *args: bool) -> list[object]:
    """Let a process with that disk lead *life* with a new ring; return what it saw."""
    ring = new_ring(directory)
    env = {**os.environ, "LD_PRELOAD": str(disk), "RING": str(ring), "IMAGE": shutil.copy(ring, image_of(ring))}
    code = f"import json, pathlib, {__name__} as test; ring = pathlib.Path({str(ring)!r})"
    code += f"; print(json.dumps(test.{life.__name__}(ring, *{args})))"
    return list(json.loads(subprocess.check_output([sys.executable, "-c", code], env=env)))


def image_of(ring: Path) -> str:
    return f"{ring}.image"


def refuse_next_sync() -> None:
    ctypes.c_int.in_dll(ctypes.CDLL(None), "disk_refusals").value = 1


def append(writer: RingWriter, *numbers: int) -> None:
    for number in numbers:
        writer.append(QUARANTINE, number.to_bytes(8, "little") * (BODY_BYTES // 8))
    writer.publish()


def error_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as exc:
        return exc.errno
    return None


def safe(ring: Path) -> list[object]:
    """How many records are said to survive a power loss, and those that do."""
    copy = Path(shutil.copy(image_of(ring), f"{ring}.survived"))
    patch(copy, BOOT_ID, bytes(16))
    RingWriter(copy)
    survivors = [int.from_bytes(seen.body[:8], "little") for seen in drain(GatingReader(copy, "writer"))]
    return [RingFile(ring).synced // (BODY_BYTES + 32), survivors]


def is_succeeded(ring: Path, syncs_first: bool) -> list[object]:
    writer = RingWriter(ring, syncs_first=syncs_first)
    append(writer, 0, 1, 2)
    saw: list[object] = [[error_of(writer.sync), *safe(ring)]]
    append(writer, 3, 4, 5, 6)
    refuse_next_sync()
    saw += [[error_of(writer.sync), *safe(ring)], writer.head > writer.synced]
    del writer
    with ring.open("rb") as file:
        saw += [[error_of(lambda: os.fdatasync(file)), *safe(ring)]]
    refuse_next_sync()
    saw += [[error_of(lambda: RingWriter(ring, syncs_first=syncs_first).sync()), *safe(ring)]]
    return [*saw, [error_of(RingWriter(ring, syncs_first=syncs_first).sync), *safe(ring)]]


@pytest.mark.requirement("F40", "F41", "DLP-01")
@pytest.mark.parametrize("syncs_first", [False, True])
def test_a_refused_sync_claims_nothing_and_a_successor_writes_it_again(
    disk: Path, tmp_path: Path, syncs_first: bool
) -> None:
    assert lead(is_succeeded, disk, tmp_path, syncs_first) == [
        [None, 3, [0, 1, 2]],
        [EIO, 3, [0, 1, 2]],
        not syncs_first,  # published without it
        [None, 3, [0, 1, 2]],  # the kernel reports success: there is nothing left to write
        [EIO, 3, [0, 1, 2]],  # the first successor
        [None, 7, [0, 1, 2, 3, 4, 5, 6]],  # the second one
    ]


def ends_like_a_worker(ring: Path, syncs_first: bool) -> list[object]:
    writer = RingWriter(ring, syncs_first=syncs_first)
    append(writer, 0, 1, 2)
    refuse_next_sync()
    sync = RingSync(writer, interval_s=None if syncs_first else 0.0)
    sync.start()
    sync.stop()
    append(writer, 3)  # what a worker notes at its end
    writer.close(clean=False)
    return [error_of(sync.raise_error), *safe(ring)]


@pytest.mark.requirement("F40", "F41", "DLP-01")
@pytest.mark.parametrize("syncs_first", [False, True])
def test_a_worker_whose_sync_was_refused_claims_nothing_at_its_end(
    disk: Path, tmp_path: Path, syncs_first: bool
) -> None:
    assert lead(ends_like_a_worker, disk, tmp_path, syncs_first) == [EIO, 0, []]


def is_repaired(ring: Path) -> list[object]:
    RingWriter(ring).close(clean=True)
    patch(ring, BOOT_ID, bytes(16))
    refuse_next_sync()
    saw: list[object] = [error_of(lambda: RingWriter(ring)), read_u64(Path(image_of(ring)), RESUME_SEQ)]
    RingWriter(ring)
    return [*saw, read_u64(Path(image_of(ring)), RESUME_SEQ) == read_u64(ring, RESUME_SEQ)]


@pytest.mark.requirement("F40", "F41")
def test_a_repair_whose_sync_is_refused_is_done_again(disk: Path, tmp_path: Path) -> None:
    assert lead(is_repaired, disk, tmp_path) == [EIO, 0, True]


def takes_over(ring: Path) -> list[object]:
    append(RingWriter(ring, syncs_first=True), 0, 1, 2)  # which dies before its sync
    writer = RingWriter(ring, syncs_first=True)
    return [writer.head == writer.synced, *safe(ring)]


@pytest.mark.requirement("F26", "F41", "DLP-01")
def test_what_a_dead_worker_had_not_synced_is_on_the_disk_before_its_successor_publishes_it(
    disk: Path, tmp_path: Path
) -> None:
    assert lead(takes_over, disk, tmp_path) == [True, 3, [0, 1, 2]]
