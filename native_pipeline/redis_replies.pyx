# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Part of step 5: the replies of Redis to one transaction are checked, each of them."""

from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp, memcpy

# What XADD answers when the last id of the stream is the given one or a later one.
IN_THE_STREAM = b"ERR The ID specified in XADD is equal or smaller"


cdef class TransactionReplies:
    """Reads the replies to one payload: of one line each, or two for an id, so lines are counted and errors are kept.

    A general RESP parser makes a Python object for each +QUEUED, which costs more than encoding the message did.
    """

    def __cinit__(self, int64_t commands):
        self.lines_left = commands + 3  # MULTI, EXEC, WATCH
        self.first_error = b""
        self.failures = []
        self.repeated = []

    @property
    def complete(self) -> bool:
        """Whether all replies were fed."""
        return self.lines_left <= 0

    def feed(self, const unsigned char[::1] data not None) -> int:
        """Take the next bytes of the connection; return how many were not needed, 0 unless the server said too much."""
        cdef const char* at = <const char*>&data[0] if data.shape[0] else NULL
        cdef const char* end = at + data.shape[0]
        cdef const char* line_end
        cdef size_t kept
        while at < end and self.lines_left > 0:
            if self.line_size == 0 and end - at >= 9 and memcmp(at, b"+QUEUED\r\n", 9) == 0:
                self.queued += 1
                self.lines_left -= 1
                at += 9
                continue
            line_end = <const char*>memchr(at, 10, end - at)  # \n
            if self.line_size == 0 and line_end != NULL:
                self.take_line(at, line_end - at)
                at = line_end + 1
                continue
            kept = min((line_end if line_end != NULL else end) - at, <ptrdiff_t>(LINE_BYTES - self.line_size))
            memcpy(self.line + self.line_size, at, kept)
            self.line_size += kept
            if line_end == NULL:
                return 0
            self.take_line(self.line, self.line_size)
            self.line_size = 0
            at = line_end + 1
        return end - at

    cdef int take_line(self, const char* text, size_t size) except -1:
        """One reply: *text* is the line without its line feed, perhaps with the carriage return."""
        if size and text[size - 1] == 13:
            size -= 1
        self.lines_left -= 1
        if self.in_bulk:  # the id of an entry that was added to a stream: a line without a line end in it
            self.in_bulk = False
            return 0
        if size == 0:
            raise ValueError("an empty line among the replies of Redis")
        if text[0] == 42 and not self.executed:  # * EXEC ran; its elements follow
            elements = int(text[1:size])
            self.aborted = elements < 0
            self.executed = elements >= 0
            self.elements_left = max(elements, 0)
            self.lines_left += self.elements_left
            return 0
        if text[0] == 45:  # -
            return self.take_error(text[1:size])
        if self.elements_left > 0:
            self.elements_left -= 1
            self.element += 1
        if text[0] == 58:  # : a number
            return 0
        if text[0] == 36 and self.executed:  # $
            self.in_bulk = True
            self.lines_left += 1
            return 0
        if text[0] == 43:  # +
            if size == 7 and memcmp(text, b"+QUEUED", 7) == 0:
                self.queued += 1
            return 0
        if text[0] == 95:  # _ is RESP3's null
            self.aborted = True
            return 0
        raise ValueError(f"a reply of Redis that no command of the transaction gives: {text[:size]!r}")

    cdef int take_error(self, bytes error) except -1:
        """Keep *error*; one that only says that a stream has the entry already is none."""
        if self.elements_left > 0:
            self.elements_left -= 1
            self.element += 1
            if error.startswith(IN_THE_STREAM):
                self.repeated.append(self.element - 1)
                return 0
            self.failures.append((self.element - 1, error))
        self.errors += 1
        if self.errors == 1:
            self.first_error = error
        return 0
