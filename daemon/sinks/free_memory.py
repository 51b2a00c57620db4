"""What an outage needed goes back to the kernel: glibc keeps freed memory, tens of megabytes after large segments."""

import ctypes


def trim() -> None:
    """Give freed memory of all threads back. Takes milliseconds; without glibc nothing happens."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))
