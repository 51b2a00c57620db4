# Part of step 2 of 6 in the life of a tick: reading text fields without ever leaving the frame.
#
# Everything works on pointers into one frame and is given both of its ends. Nothing raises, allocates or copies more
# than a tail of 64 bytes; a function that can refuse returns 0 for "refused" and then leaves its results unspecified.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy


cdef extern from "scan_simd.h" nogil:
    enum:
        SISE_FIND_SLACK
    bint sise_eight_digits(const char* p, int digits, uint64_t* value)
    bint sise_short_decimal(const char* p, int length, int64_t* mantissa, uint8_t* scale)
    bint sise_long_decimal(const char* p, int length, int64_t* mantissa, uint8_t* scale)
    bint sise_hhmmss(const char* p, int32_t* seconds)
    uint64_t sise_load64(const char* p)
    uint64_t sise_load32(const char* p)
    void sise_store64(char* p, uint64_t word)
    bint sise_symbol_bytes(uint64_t word)
    uint64_t sise_integers(const char* base, const uint32_t* begins, const uint8_t* numbers, int count, int64_t* values)
    uint64_t sise_integers_portable(const char* base, const uint32_t* begins, const uint8_t* numbers, int count,
                                    int64_t* values)
    uint64_t sise_decimals(const char* base, const uint32_t* begins, const uint8_t* numbers, int count, int64_t* values,
                           uint8_t* scales)
    uint64_t sise_decimals_portable(const char* base, const uint32_t* begins, const uint8_t* numbers, int count,
                                    int64_t* values, uint8_t* scales)
    size_t sise_find(const char* p, size_t n, char c, uint32_t* behind)
    size_t sise_find_sse2(const char* p, size_t n, char c, uint32_t* behind)
    size_t sise_find_portable(const char* p, size_t n, char c, uint32_t* behind)


cdef enum:
    SYMBOL_BYTES = 24         # SISE_SYMBOL_BYTES
    SYMBOL_WORDS = 3
    SCAN_MAX_SCALE = 18       # SISE_MAX_SCALE: 10**18 is the largest power of ten below 2**63
    SCAN_FIRST_YEAR = 1970
    SCAN_LAST_YEAR = 2261     # the last whole year whose nanoseconds fit an int64


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
    cdef uint64_t value, above
    cdef Py_ssize_t size = end - begin
    if 1 <= size <= 8 and end - floor >= 8:
        if sise_eight_digits(end - 8, <int>size, &value):
            mantissa[0] = <int64_t>value
            scale[0] = 0
            return True
        return sise_short_decimal(end - 8, <int>size, mantissa, scale)
    if 9 <= size <= 16 and end - floor >= 16:
        if sise_eight_digits(end - 8, 8, &value) and sise_eight_digits(end - 16, <int>size - 8, &above):
            mantissa[0] = <int64_t>(above * 100000000 + value)
            scale[0] = 0
            return True
        return sise_long_decimal(end - 16, <int>size, mantissa, scale)
    return scan_decimal_slow(begin, end, mantissa, scale)


# A field that the venue left out: nothing, or the word that its own printf writes.
cdef inline bint scan_is_absent(const char* begin, const char* end) noexcept nogil:
    return end == begin or (end - begin == 6 and memcmp(begin, b"(null)", 6) == 0)


# ---- times -----------------------------------------------------------------------------------------------------------

# HHMMSS -> seconds since midnight.
cdef inline bint scan_hhmmss(const char* begin, const char* end, int32_t* seconds) noexcept nogil:
    return end - begin == 6 and sise_hhmmss(begin, seconds)


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

# 1..SYMBOL_BYTES printable ASCII characters without " \ ^ |, no space at either end; NUL padded to the three words of
# *symbol*, each stored as a whole: the checksum reads them again at once.
cdef inline bint scan_symbol(const char* begin, const char* end, char* symbol) noexcept nogil:
    cdef uint64_t words[SYMBOL_WORDS]
    cdef uint64_t checked
    cdef Py_ssize_t size = end - begin, i
    if size < 1 or size > SYMBOL_BYTES or begin[0] == c' ' or end[-1] == c' ':
        return False
    if 4 <= size <= 8:   # nearly every symbol: two loads that may overlap, and no way through memory
        checked = sise_load32(begin) | <uint64_t>sise_load32(end - 4) << (8 * (size - 4))
        if not sise_symbol_bytes(checked | (<uint64_t>0x4141414141414141 << (8 * size) if size < 8 else 0)):
            return False
        sise_store64(symbol, checked)
        sise_store64(symbol + 8, 0)
        sise_store64(symbol + 16, 0)
        return True
    words[0] = words[1] = words[2] = 0
    memcpy(words, begin, <size_t>size)
    for i in range((size + 7) // 8):
        checked = words[i]
        if size - 8 * i < 8:   # what is behind the symbol counts as a character that is allowed
            checked |= <uint64_t>0x4141414141414141 << (8 * (size - 8 * i))
        if not sise_symbol_bytes(checked):
            return False
    memcpy(symbol, words, SYMBOL_BYTES)
    return True
