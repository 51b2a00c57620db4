# Part of step 2 of 6 in the life of a tick: JSON numbers as exact decimals, many digits at once.
#
# A walk over JSON text (scan_json.pxd) takes a number from here where it needs its value and most values have a
# fraction. Nothing raises, allocates or reads at or behind the cursor's end.

from libc.stdint cimport int64_t, uint8_t, uint64_t

from native_pipeline.record cimport SISE_ABSENT
from native_pipeline.scan cimport sise_load64
from native_pipeline.scan_json cimport JsonCursor, json_decimal, json_number, json_peek, json_skip, json_word


cdef extern from "scan_simd.h" nogil:
    bint sise_digits(uint64_t word, int digits, uint64_t* value)
    int sise_number_length(const char* p)

cdef extern from * nogil:
    int __builtin_ctzll(unsigned long long word)


cdef enum:
    NUMBER_ROOM = 40      # bytes that the fast way to read a number may look at


# What a number's `state` says.
cdef enum:
    NUMBER_MISSING = 0    # null, or never read
    NUMBER_FOUND
    NUMBER_REFUSED        # no number, or one of more than 63 bits or 18 decimals


# mantissa / 10**scale, exactly and with the decimals that are written.
cdef struct JsonNumber:
    int64_t mantissa
    uint8_t scale
    uint8_t state


cdef extern from * nogil:
    """
    static const int64_t sise_pow10[19] = {
        1LL, 10LL, 100LL, 1000LL, 10000LL, 100000LL, 1000000LL, 10000000LL, 100000000LL, 1000000000LL, 10000000000LL,
        100000000000LL, 1000000000000LL, 10000000000000LL, 100000000000000LL, 1000000000000000LL, 10000000000000000LL,
        100000000000000000LL, 1000000000000000000LL};

    /* left / 10**left_scale > right / 10**right_scale, for numbers >= 0: exact, as 2**63 * 10**18 < 2**127. */
    static inline int sise_number_above(int64_t left, uint8_t left_scale, int64_t right, uint8_t right_scale) {
        return (unsigned __int128)(uint64_t)left * (uint64_t)sise_pow10[right_scale] >
               (unsigned __int128)(uint64_t)right * (uint64_t)sise_pow10[left_scale];
    }

    /* change / close in percent with four decimals, both >= 0, half away from zero. 0 if that does not fit: change with
     * the decimals of both and six more has to stay below 2**127. */
    static inline int sise_number_percent(int64_t change, uint8_t change_scale, int64_t close, uint8_t close_scale,
                                         int64_t *rate) {
        unsigned __int128 above = (unsigned __int128)(uint64_t)change * 1000000, below = (uint64_t)close, quotient;
        if (close == 0)
            return 0;
        if (close_scale >= change_scale) {
            const uint64_t factor = (uint64_t)sise_pow10[close_scale - change_scale];
            if (above > (((unsigned __int128)1 << 127) - 1) / factor)
                return 0;
            above *= factor;
        } else {
            below *= (uint64_t)sise_pow10[change_scale - close_scale];
        }
        if (above >> 64 == 0 && below >> 64 == 0) {
            quotient = (uint64_t)above / (uint64_t)below;
        } else {
            quotient = above / below;
        }
        above -= quotient * below;
        quotient += above >= below - above;
        if (quotient >> 63)
            return 0;
        *rate = (int64_t)quotient;
        return 1;
    }
    """
    const int64_t sise_pow10[19]
    bint sise_number_above(int64_t left, uint8_t left_scale, int64_t right, uint8_t right_scale)
    bint sise_number_percent(int64_t change, uint8_t change_scale, int64_t close, uint8_t close_scale, int64_t* rate)


# How many of the 8 bytes of *word* are digits, from the first on.
cdef inline int digits_in_front(uint64_t word) noexcept nogil:
    cdef uint64_t x = word ^ <uint64_t>0x3030303030303030
    # adding 0x76 sets the top bit of what is no digit; its carry can only reach bytes behind that one
    x = ((x + <uint64_t>0x7676767676767676) | x) & <uint64_t>0x8080808080808080
    return __builtin_ctzll(x) >> 3 if x else 8


# The 0..15 digits at *p*: their number, 16 if there are more. Reads 16 bytes.
cdef inline int read_digits(const char* p, uint64_t* value) noexcept nogil:
    cdef uint64_t word = sise_load64(p), more, low = 0
    cdef int digits = digits_in_front(word), further
    value[0] = 0
    if digits < 8:
        if digits:
            sise_digits(word << (8 * (8 - digits)), digits, value)
        return digits
    sise_digits(word, 8, value)
    more = sise_load64(p + 8)
    further = digits_in_front(more)
    if further and further < 8:
        sise_digits(more << (8 * (8 - further)), further, &low)
        value[0] = value[0] * <uint64_t>sise_pow10[further] + low
    return 8 + further


# A number of usual length, without an exponent, that does not end near the end of the text. False if it is another.
cdef inline bint json_usual_number(JsonCursor* cursor, JsonNumber* number) noexcept nogil:
    cdef const char* p = cursor.at
    cdef uint64_t value, fraction
    cdef int whole, decimals = 0
    cdef bint negative
    if cursor.end - p < NUMBER_ROOM:
        return False
    negative = p[0] == c'-'
    p += negative
    whole = read_digits(p, &value)
    if whole == 0 or whole == 16 or (p[0] == c'0' and whole > 1):
        return False
    p += whole
    if p[0] == c'.':
        decimals = read_digits(p + 1, &fraction)
        if decimals == 0 or decimals == 16 or whole + decimals > 18:
            return False
        value = value * <uint64_t>sise_pow10[decimals] + fraction
        p += 1 + decimals
    if p[0] | 0x20 == c'e':
        return False
    cursor.at = p
    number.mantissa = -<int64_t>value if negative else <int64_t>value
    number.scale = <uint8_t>decimals
    number.state = NUMBER_FOUND
    return True


# Pass over such a number, without its value. False: it is another.
cdef inline bint json_pass_number(JsonCursor* cursor) noexcept nogil:
    cdef int length
    if cursor.end - cursor.at < NUMBER_ROOM:
        return False
    length = sise_number_length(cursor.at)
    cursor.at += length
    return length > 0


# Take any value as a number. False: not JSON.
cdef inline bint json_read_number(JsonCursor* cursor, JsonNumber* number) noexcept nogil:
    cdef const char* begin
    cdef const char* end
    cdef char c = json_peek(cursor)
    if c == c'-' or c'0' <= c <= c'9':
        if json_usual_number(cursor, number):
            return True
        if not json_number(cursor, &begin, &end):
            return False
        number.state = NUMBER_REFUSED
        if json_decimal(cursor.floor, begin, end, &number.mantissa, &number.scale):
            number.state = NUMBER_FOUND
        return True
    if c == c'n':
        number.state = NUMBER_MISSING
        return json_word(cursor)
    number.state = NUMBER_REFUSED
    return json_skip(cursor)


# A number as a whole one: False if it is missing or has a fraction.
cdef inline bint whole_number(const JsonNumber* number, int64_t* value) noexcept nogil:
    cdef int64_t mantissa = number.mantissa
    cdef int scale = number.scale
    if number.state != NUMBER_FOUND:
        return False
    while scale > 0 and mantissa % 10 == 0:
        mantissa //= 10
        scale -= 1
    value[0] = mantissa
    return scale == 0


cdef inline bint is_at_least_zero(const JsonNumber* number) noexcept nogil:
    return number.state == NUMBER_FOUND and number.mantissa >= 0


# An optional number: absent unless it is one.
cdef inline void take_optional(const JsonNumber* number, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    if number.state == NUMBER_FOUND:
        mantissa[0] = number.mantissa
        scale[0] = number.scale
    else:
        mantissa[0] = SISE_ABSENT
        scale[0] = 0


# An optional price: absent unless it is positive.
cdef inline void take_price(const JsonNumber* number, int64_t* mantissa, uint8_t* scale) noexcept nogil:
    take_optional(number, mantissa, scale)
    if mantissa[0] <= 0:
        mantissa[0] = SISE_ABSENT
        scale[0] = 0
