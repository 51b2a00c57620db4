# The protocol of Redis (RESP 2), as far as a client writes it: arrays of bulk strings.

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from native_pipeline.value_text cimport put_literal, put_signed, put_unsigned


cdef inline char* put_bulk(char* at, const char* text, size_t size) noexcept nogil:
    """One word of a command."""
    at[0] = 36  # $
    at = put_unsigned(at + 1, size)
    at = put_literal(at, b"\r\n")
    memcpy(at, text, size)
    return put_literal(at + size, b"\r\n")


cdef inline char* put_bulk_number(char* at, int64_t value) noexcept nogil:
    cdef char text[24]
    return put_bulk(at, text, put_signed(text, value) - text)


cdef inline bytes packed(tuple words):
    """One command; each word is a str, an int or bytes."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded])
