# A buffer that grows, and pieces of text prepared once: what the encoders for Redis write into and copy from.

from libc.stdlib cimport realloc
from libc.string cimport memcpy


cdef enum:
    PIECE_BYTES = 512             # prepared text: a name of up to 60 bytes, escaped, with what surrounds it
    FIRST_BUFFER_BYTES = 1 << 20  # about 3,000 trades

ctypedef struct text_buffer:
    char* data        # free() it
    size_t size
    size_t capacity

ctypedef struct text_piece:
    char text[PIECE_BYTES]
    size_t size


cdef inline char* put_piece(char* at, const text_piece* piece) noexcept nogil:
    memcpy(at, piece.text, piece.size)
    return at + piece.size


cdef inline char* room_for(text_buffer* buffer, size_t size) noexcept nogil:
    """Return where to write *size* more bytes, or NULL if there is no memory."""
    cdef size_t capacity = buffer.capacity if buffer.capacity else FIRST_BUFFER_BYTES
    cdef char* data
    if buffer.data == NULL or buffer.size + size > buffer.capacity:
        while capacity < buffer.size + size:
            capacity *= 2
        data = <char*>realloc(buffer.data, capacity)
        if data == NULL:
            return NULL
        buffer.data = data
        buffer.capacity = capacity
    return buffer.data + buffer.size


cdef inline int add_bytes(text_buffer* buffer, bytes text) except -1:
    cdef char* at = room_for(buffer, len(text))
    if at == NULL:
        raise MemoryError
    memcpy(at, <const char*>text, len(text))
    buffer.size += len(text)
    return 0


cdef inline int set_piece(text_piece* piece, bytes text) except -1:
    if len(text) > PIECE_BYTES:
        raise ValueError(f"at most {PIECE_BYTES} bytes, found {len(text)} in {text!r}")
    memcpy(piece.text, <const char*>text, len(text))
    piece.size = len(text)
    return 0
