# cython: boundscheck=False, wraparound=False, cdivision=True
# Values as text, written in place: decimals exactly as the venue sent them, JSON strings, the calendar.
#
# Every put_ function returns where the next character goes; the caller has made room.

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memmove, memset, strlen

from native_pipeline.record cimport SISE_ABSENT


cdef extern from * nogil:
    """
    static const uint64_t sise_powers_of_ten[20] = {
        1ULL, 10ULL, 100ULL, 1000ULL,
        10000ULL, 100000ULL, 1000000ULL, 10000000ULL,
        100000000ULL, 1000000000ULL, 10000000000ULL, 100000000000ULL,
        1000000000000ULL, 10000000000000ULL, 100000000000000ULL, 1000000000000000ULL,
        10000000000000000ULL, 100000000000000000ULL, 1000000000000000000ULL, 10000000000000000000ULL,
    };
    static const char sise_digit_pairs[] =
        "00010203040506070809101112131415161718192021222324"
        "25262728293031323334353637383940414243444546474849"
        "50515253545556575859606162636465666768697071727374"
        "75767778798081828384858687888990919293949596979899";
    """
    const uint64_t* sise_powers_of_ten
    const char* sise_digit_pairs
    int __builtin_clzll(unsigned long long value)


cdef inline char* put_literal(char* at, const char* text) noexcept nogil:
    cdef size_t size = strlen(text)  # of a literal: known to the compiler
    memcpy(at, text, size)
    return at + size


cdef inline int count_digits(uint64_t value) noexcept nogil:
    cdef int digits = (64 - __builtin_clzll(value | 1)) * 1233 >> 12  # log10(2) = 1233 / 4096
    return digits + 1 if digits < 20 and value >= sise_powers_of_ten[digits] else max(digits, 1)


cdef inline void put_digits(char* at, uint64_t value, int digits) noexcept nogil:
    """Write exactly *digits* digits, zeros in front."""
    cdef int pair
    while digits >= 2:
        pair = <int>(value % 100)
        value //= 100
        digits -= 2
        memcpy(at + digits, &sise_digit_pairs[2 * pair], 2)
    if digits:
        at[0] = <char>(48 + value % 10)


cdef inline char* put_unsigned(char* at, uint64_t value) noexcept nogil:
    cdef int digits = count_digits(value)
    put_digits(at, value, digits)
    return at + digits


cdef inline char* put_signed(char* at, int64_t value) noexcept nogil:
    if value < 0:
        at[0] = 45  # -
        return put_unsigned(at + 1, 0 - <uint64_t>value)
    return put_unsigned(at, <uint64_t>value)


cdef inline char* put_decimal(char* at, int64_t mantissa, uint8_t scale) noexcept nogil:
    """Write mantissa / 10^scale exactly, with *scale* digits behind the point and without an exponent."""
    cdef uint64_t magnitude = <uint64_t>mantissa
    cdef int digits
    if mantissa < 0:
        at[0] = 45  # -
        at += 1
        magnitude = 0 - magnitude
    if scale == 0:
        return put_unsigned(at, magnitude)
    digits = count_digits(magnitude)
    if digits > scale:
        put_digits(at + 1, magnitude, digits)
        memmove(at, at + 1, digits - scale)
        at[digits - scale] = 46  # .
        return at + digits + 1
    at = put_literal(at, b"0.")
    memset(at, 48, scale - digits)
    at += scale - digits
    put_digits(at, magnitude, digits)
    return at + digits


cdef inline char* put_optional(char* at, int64_t mantissa, uint8_t scale) noexcept nogil:
    return put_literal(at, b"null") if mantissa == SISE_ABSENT else put_decimal(at, mantissa, scale)


cdef inline char* put_json_string(char* at, const char* text, size_t size) noexcept nogil:
    """Write *text* in quotes. Bytes outside printable ASCII, which a symbol never has, become \\u00XX."""
    cdef size_t i
    cdef uint8_t byte
    at[0] = 34  # "
    at += 1
    for i in range(size):
        byte = <uint8_t>text[i]
        if byte < 32 or byte > 126:
            at = put_literal(at, b"\\u00")
            at[0] = b"0123456789abcdef"[byte >> 4]
            at[1] = b"0123456789abcdef"[byte & 15]
            at += 2
            continue
        if byte == 34 or byte == 92:
            at[0] = 92  # \
            at += 1
        at[0] = <char>byte
        at += 1
    at[0] = 34
    return at + 1


cdef inline void date_of(int64_t day, int* year, int* month, int* day_of_month) noexcept nogil:
    """Day since 1970 to the proleptic Gregorian calendar: era of 400 years from 0000-03-01 (Hinnant)."""
    cdef int64_t shifted = day + 719468
    cdef int64_t era = (shifted if shifted >= 0 else shifted - 146096) // 146097
    cdef int64_t of_era = shifted - era * 146097
    cdef int64_t year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef int64_t of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef int64_t from_march = (5 * of_year + 2) // 153
    day_of_month[0] = <int>(of_year - (153 * from_march + 2) // 5 + 1)
    month[0] = <int>(from_march + 3 if from_march < 10 else from_march - 9)
    year[0] = <int>(year_of_era + era * 400 + (1 if month[0] <= 2 else 0))


cdef inline int64_t floor_divide(int64_t value, int64_t divisor) noexcept nogil:
    cdef int64_t quotient = value // divisor  # C division: towards zero
    return quotient - 1 if value % divisor < 0 else quotient
