# Text that a venue sent, in a form that no reader can refuse: valid UTF-8 without NUL, for the database and for Redis.
#
# What is not well-formed becomes U+FFFD, one for each maximal ill-formed part, as Python's errors="replace" does it;
# so does NUL, which PostgreSQL's text cannot hold.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    # A byte of the venue's text takes at most so many in a column (U+FFFD), and so many in JSON (\u00XX).
    TEXT_GROWTH = 3
    JSON_GROWTH = 6


cdef inline int utf8_step(const uint8_t* text, size_t size) noexcept nogil:
    """Length of the character at *text*, *size* > 0 bytes; negative: of the part that one U+FFFD takes the place of."""
    cdef uint8_t first = text[0], lowest = 0x80, highest = 0xBF
    cdef int follow, i
    if first < 0x80:
        return 1 if first else -1
    if first < 0xC2 or first > 0xF4:  # inside a character, overlong, or beyond Unicode
        return -1
    if first < 0xE0:
        follow = 1
    elif first < 0xF0:
        follow = 2
        if first == 0xE0:
            lowest = 0xA0   # below: overlong
        elif first == 0xED:
            highest = 0x9F  # above: half of a surrogate pair
    else:
        follow = 3
        if first == 0xF0:
            lowest = 0x90   # below: overlong
        elif first == 0xF4:
            highest = 0x8F  # above: beyond Unicode
    for i in range(1, follow + 1):
        if <size_t>i == size or not lowest <= text[i] <= highest:
            return -i
        lowest = 0x80
        highest = 0xBF
    return follow + 1


cdef inline uint64_t bytes_equal(uint64_t word, uint8_t byte) noexcept nogil:
    """Not 0 if one of the eight bytes of *word* is *byte*."""
    cdef uint64_t ones = 0x0101010101010101
    word ^= ones * byte
    return (word - ones) & ~word & (ones << 7)


cdef inline uint64_t bytes_below(uint64_t word, uint8_t limit) noexcept nogil:
    """Not 0 if one of the eight bytes of *word* is below *limit*, which is at most 128."""
    cdef uint64_t ones = 0x0101010101010101
    return (word - ones * limit) & ~word & (ones << 7)


cdef inline char* put_text(char* at, const char* text, size_t size) noexcept nogil:
    """Write *text* as valid UTF-8 without NUL; at most TEXT_GROWTH times *size* bytes."""
    cdef const uint8_t* source = <const uint8_t*>text
    cdef const uint8_t* end = source + size
    cdef uint64_t word
    cdef int step
    while source < end:
        if end - source >= 8:
            memcpy(&word, source, 8)
            if (word & <uint64_t>0x8080808080808080) == 0 and bytes_equal(word, 0) == 0:
                memcpy(at, &word, 8)
                at += 8
                source += 8
                continue
        step = utf8_step(source, end - source)
        if step > 0:
            memcpy(at, source, step)
            at += step
            source += step
        else:
            memcpy(at, b"\xef\xbf\xbd", 3)
            at += 3
            source -= step
    return at


cdef inline char* put_json_text(char* at, const char* text, size_t size) noexcept nogil:
    """Write *text* as the inside of a JSON string, otherwise as put_text(); at most JSON_GROWTH times *size* bytes."""
    cdef const uint8_t* source = <const uint8_t*>text
    cdef const uint8_t* end = source + size
    cdef uint64_t word
    cdef uint8_t byte
    cdef int step
    while source < end:
        if end - source >= 8:
            memcpy(&word, source, 8)
            if ((word & <uint64_t>0x8080808080808080) == 0 and bytes_below(word, 32) == 0
                    and bytes_equal(word, 34) == 0 and bytes_equal(word, 92) == 0):
                memcpy(at, &word, 8)
                at += 8
                source += 8
                continue
        byte = source[0]
        if byte == 34 or byte == 92:  # " \
            at[0] = 92
            at[1] = <char>byte
            at += 2
            source += 1
            continue
        if 0 < byte < 32:
            memcpy(at, b"\\u00", 4)
            at[4] = b"0123456789abcdef"[byte >> 4]
            at[5] = b"0123456789abcdef"[byte & 15]
            at += 6
            source += 1
            continue
        step = utf8_step(source, end - source)
        if step > 0:
            memcpy(at, source, step)
            at += step
            source += step
        else:
            memcpy(at, b"\xef\xbf\xbd", 3)
            at += 3
            source -= step
    return at
