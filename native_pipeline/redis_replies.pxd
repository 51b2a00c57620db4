# The replies to one natively packed transaction. Bodies in redis_replies.pyx.

from libc.stdint cimport int64_t


cdef enum:
    LINE_BYTES = 512     # what is kept of a reply line that came in parts, and of an error


cdef class TransactionReplies:
    cdef int64_t lines_left              # reply lines that are still to come
    cdef int64_t element                 # next element of EXEC's array; behind MULTI: next command to be queued
    cdef int64_t elements_left           # of EXEC's array
    cdef bint in_bulk                    # the next line is the text of a bulk string
    cdef readonly int64_t queued         # commands that the server accepted
    cdef readonly bint executed          # EXEC ran the commands
    cdef readonly bint aborted           # EXEC ran nothing: a watched key had changed
    cdef readonly int64_t errors
    cdef readonly bytes first_error
    cdef readonly list failures          # (command, error) of those that EXEC ran in vain
    cdef readonly list repeated          # commands that added to a stream what it had already
    cdef char line[LINE_BYTES]           # begin of a line that the last feed() ended in
    cdef size_t line_size

    cdef int take_line(self, const char* text, size_t size) except -1
    cdef int take_error(self, bytes error) except -1
