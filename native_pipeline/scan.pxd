# Part of step 2 of 6 in the life of a tick: reading text fields without ever leaving the frame.
#
# Everything works on pointers into one frame and is given both of its ends. Nothing raises, allocates or copies more
# than a tail of 64 bytes; a function that can refuse returns 0 for "refused" and then leaves its results unspecified.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset


cdef extern from "scan_simd.h" nogil:
    enum:
        SISE_SIMD
        SISE_BLOCK
    bint sise_eight_digits(const char* p, int digits, uint64_t* value)
    uint64_t sise_match_block(const char* p, char c)
    uint64_t sise_match_block_portable(const char* p, char c)
    uint64_t sise_match_tail(const char* p, size_t n, char c)
    size_t sise_count_byte(const char* p, size_t n, char c)
    size_t sise_count_byte_portable(const char* p, size_t n, char c)

cdef extern from * nogil:
    """
    #define sise_ctz64(x) __builtin_ctzll(x)
    """
    int sise_ctz64(uint64_t x)


cdef enum:
    SCAN_MAX_SCALE = 18       # SISE_MAX_SCALE: 10**18 is the largest power of ten below 2**63
    SCAN_FIRST_YEAR = 1970
    SCAN_LAST_YEAR = 2261     # the last whole year whose nanoseconds fit an int64


# ---- separators ------------------------------------------------------------------------------------------------------

# Walks the separators of [base, base + size), one block of 64 bytes at a time.
cdef struct Splitter:
    const char* base
    size_t size
    size_t block      # offset of the block that mask describes
    uint64_t mask     # separators of the block that were not returned yet
    char separator


cdef inline uint64_t splitter_mask(const Splitter* s) noexcept nogil:
    cdef size_t left = s.size - s.block
    if left >= SISE_BLOCK:
        return sise_match_block(s.base + s.block, s.separator)
    if left == 0:
        return 0
    if s.size >= SISE_BLOCK:   # the last 64 bytes, shifted: cheaper than a copy of the tail
        return sise_match_block(s.base + s.size - SISE_BLOCK, s.separator) >> (SISE_BLOCK - left)
    return sise_match_tail(s.base + s.block, left, s.separator)


cdef inline void splitter_start(Splitter* s, const char* base, size_t size, char separator) noexcept nogil:
    s.base = base
    s.size = size
    s.block = 0
    s.separator = separator
    s.mask = splitter_mask(s)


# Offset of the next separator; *size* when there are no more.
cdef inline size_t splitter_next(Splitter* s) noexcept nogil:
    cdef size_t found
    while s.mask == 0:
        if s.size - s.block <= SISE_BLOCK:
            return s.size
        s.block += SISE_BLOCK
        s.mask = splitter_mask(s)
    found = s.block + <size_t>sise_ctz64(s.mask)
    s.mask &= s.mask - 1
    return found


# ---- numbers ---------------------------------------------------------------------------------------------------------

# The value of 1..8 ASCII digits at [begin, end). *floor* is the start of the readable bytes: the usual case loads the
# 8 bytes that end at *end*, which may begin in front of the field but never in front of *floor*.
cdef inline bint scan_digits(const char* floor, const char* begin, const char* end, uint64_t* value) noexcept nogil:
    cdef uint64_t total = 0
    cdef int digit
    cdef const char* p = begin
    if end - begin < 1 or end - begin > 8:
        return False
    if end - floor < 8:
        while p < end:
            digit = p[0] - c'0'
            if digit < 0 or digit > 9:
                return False
            total = total * 10 + <uint64_t>digit
            p += 1
        value[0] = total
        return True
    return sise_eight_digits(end - 8, <int>(end - begin), value)


# Any decimal: [+-] digits [. digits], or no digits in front of the point. The value is mantissa / 10**scale, exactly.
cdef inline bint scan_decimal_slow(const char* begin, const char* end, int64_t* mantissa,
                                   uint8_t* scale) noexcept nogil:
    cdef uint64_t total = 0, limit = 922337203685477580   # (2**63 - 1) // 10
    cdef int digit, decimals = -1, digits = 0
    cdef bint negative = False
    cdef const char* p = begin
    if p < end and (p[0] == c'-' or p[0] == c'+'):
        negative = p[0] == c'-'
        p += 1
    while p < end:
        if p[0] == c'.':
            if decimals >= 0 or p + 1 == end:   # a second point; or a number cut off behind its point
                return False
            decimals = 0
        else:
            digit = p[0] - c'0'
            if digit < 0 or digit > 9:
                return False
            if total > limit or (total == limit and digit > 7):
                return False
            total = total * 10 + <uint64_t>digit
            digits += 1
            if decimals >= 0:
                decimals += 1
        p += 1
    if digits == 0 or decimals > SCAN_MAX_SCALE:
        return False
    mantissa[0] = -<int64_t>total if negative else <int64_t>total
    scale[0] = <uint8_t>decimals if decimals > 0 else 0
    return True


cdef inline bint scan_decimal(const char* floor, const char* begin, const char* end, int64_t* mantissa,
                              uint8_t* scale) noexcept nogil:
    cdef uint64_t value
    if scan_digits(floor, begin, end, &value):
        mantissa[0] = <int64_t>value
        scale[0] = 0
        return True
    return scan_decimal_slow(begin, end, mantissa, scale)


# A field that the venue left out: nothing, or the word that its own printf writes.
cdef inline bint scan_is_absent(const char* begin, const char* end) noexcept nogil:
    return end == begin or (end - begin == 6 and memcmp(begin, b"(null)", 6) == 0)


# ---- times -----------------------------------------------------------------------------------------------------------

# HHMMSS -> seconds since midnight.
cdef inline bint scan_hhmmss(const char* floor, const char* begin, const char* end, int32_t* seconds) noexcept nogil:
    cdef uint64_t value
    cdef uint32_t digits, minutes
    if end - begin != 6 or not scan_digits(floor, begin, end, &value):
        return False
    digits = <uint32_t>value
    minutes = (digits // 100) % 100
    if digits >= 240000 or minutes > 59 or digits % 100 > 59:
        return False
    seconds[0] = <int32_t>(digits // 10000 * 3600 + minutes * 60 + digits % 100)
    return True


# Days from 1970-01-01 to a date of the Gregorian calendar, year >= 0. After H. Hinnant's chrono algorithms:
# the year is taken to begin in March, so that the leap day is its last.
cdef inline int32_t days_from_civil(uint32_t year, uint32_t month, uint32_t day) noexcept nogil:
    cdef uint32_t y = year - (1 if month <= 2 else 0)
    cdef uint32_t era = y // 400
    cdef uint32_t year_of_era = y - era * 400
    cdef uint32_t day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    cdef uint32_t day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return <int32_t>(era * 146097 + day_of_era) - 719468


cdef inline uint32_t days_in_month(uint32_t year, uint32_t month) noexcept nogil:
    if month == 2:
        return 29 if (year % 4 == 0 and year % 100 != 0) or year % 400 == 0 else 28
    return 30 + ((month + (month >> 3)) & 1)


# YYYYMMDD, a day that exists -> days since 1970-01-01.
cdef inline bint scan_yyyymmdd(const char* floor, const char* begin, const char* end, int32_t* days) noexcept nogil:
    cdef uint64_t value
    cdef uint32_t digits, year, month, day
    if end - begin != 8 or not scan_digits(floor, begin, end, &value):
        return False
    digits = <uint32_t>value
    year = digits // 10000
    month = digits // 100 % 100
    day = digits % 100
    if year < SCAN_FIRST_YEAR or year > SCAN_LAST_YEAR or month < 1 or month > 12:
        return False
    if day < 1 or day > days_in_month(year, month):
        return False
    days[0] = days_from_civil(year, month, day)
    return True


# ---- symbols ---------------------------------------------------------------------------------------------------------

# 1..size printable ASCII characters without " \ ^ |, no space at either end; copied to *symbol*, NUL padded to *size*.
cdef inline bint scan_symbol(const char* begin, const char* end, char* symbol, int size) noexcept nogil:
    cdef int i = 0
    cdef char c
    cdef const char* p = begin
    if begin == end or end - begin > size or begin[0] == c' ' or end[-1] == c' ':
        return False
    memset(symbol, 0, <size_t>size)   # size is a constant where this is inlined: three stores
    while p < end:
        c = p[0]
        if c < c' ' or c > c'~' or c == c'"' or c == c'\\' or c == c'^' or c == c'|':
            return False
        symbol[i] = c
        i += 1
        p += 1
    return True
