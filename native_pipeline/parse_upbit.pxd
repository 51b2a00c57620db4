# Step 2 of 6 in the life of a tick, for Upbit. Bodies in parse_upbit.pyx.

from libc.stdint cimport int64_t, uint8_t

from native_pipeline.frame_parser cimport FrameParser
from native_pipeline.record cimport sise_book
from native_pipeline.ring_writer cimport RingWriter
from native_pipeline.scan_json cimport JsonCursor, JsonRoom
from native_pipeline.scan_number cimport JsonNumber


# The members of a message that are read, by what they mean; numbers first, so that a role is their index.
cdef enum:
    ROLE_PRICE = 0
    ROLE_VOLUME
    ROLE_ASK
    ROLE_BID
    ROLE_PREV_CLOSE
    ROLE_CHANGE_PRICE
    ROLE_TRADE_TIME
    ROLE_TIME
    ROLE_IDENTITY
    ROLE_ACC_VOLUME
    ROLE_SIGNED_RATE
    NUMBER_ROLES
    # texts
    ROLE_TYPE = NUMBER_ROLES
    ROLE_CODE
    ROLE_SIDE
    ROLE_CHANGE
    ROLE_STREAM
    TEXT_ROLES_END
    # the levels of a book
    ROLE_UNITS = TEXT_ROLES_END
    # members of one level, in the order in which they are checked
    ROLE_ASK_PRICE
    ROLE_BID_PRICE
    ROLE_ASK_SIZE
    ROLE_BID_SIZE
    ROLE_UNKNOWN


# A string without its quotes; NULL if there is no such member or it is no string.
cdef struct UpbitText:
    const char* begin
    const char* end


# What one message says. The levels of its book are in the parser's `levels`.
cdef struct UpbitMessage:
    JsonNumber numbers[11]   # by role, below NUMBER_ROLES
    UpbitText texts[5]        # by role - NUMBER_ROLES
    bint has_type             # a member of that name, whatever its value
    int units_reason          # why the levels are unusable, REASON_NONE if they are not
    int units_detail          # number of the bad level, from 1


cdef class UpbitParser(FrameParser):
    cdef readonly uint8_t market         # id in the market registry, stamped on every record
    cdef readonly bint snapshot_trades   # False: the trade of a snapshot becomes a quote
    cdef JsonRoom room
    cdef sise_book levels                # of the message under way

    cdef int parse_frame(self, RingWriter ring, const char* data, Py_ssize_t size, bint is_text,
                         int64_t recv_ns) noexcept nogil
    cdef int quarantine(self, RingWriter ring, int reason, int detail, const char* data, Py_ssize_t size,
                        int64_t recv_ns) noexcept nogil
    cdef bint read_message(self, JsonCursor* cursor, UpbitMessage* message) noexcept nogil
    cdef bint read_levels(self, JsonCursor* cursor, UpbitMessage* message) noexcept nogil
    cdef int append_array(self, RingWriter ring, JsonCursor* cursor, const char* data, Py_ssize_t size,
                          int64_t recv_ns) noexcept nogil
    cdef int append_message(self, RingWriter ring, const UpbitMessage* message, const char* text,
                            Py_ssize_t text_bytes, int64_t recv_ns) noexcept nogil
    cdef int append_trade(self, RingWriter ring, const UpbitMessage* message, int64_t recv_ns,
                          int* reason) noexcept nogil
    cdef int append_book(self, RingWriter ring, const UpbitMessage* message, int64_t recv_ns, int* reason,
                         int* detail) noexcept nogil
    cdef int append_quote(self, RingWriter ring, const UpbitMessage* message, int64_t exchange_ns, const char* text,
                          Py_ssize_t text_bytes, int64_t recv_ns, int* reason) noexcept nogil
