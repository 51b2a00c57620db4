/* Many bytes at once: finding one byte with AVX-512 or SSE2 (and a portable twin), reading numbers in one word.
 *
 * Nothing here reads a byte outside [p, p + n), or outside the 8 bytes at p where there is no n.
 */
#ifndef SISE_SCAN_SIMD_H
#define SISE_SCAN_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) && !defined(SISE_NO_SIMD)
#include <immintrin.h>
#define SISE_SIMD 1
#else
#define SISE_SIMD 0
#endif

/* 8 bytes as a little-endian word: the first byte is the lowest. */
static inline uint64_t sise_load64(const char *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static inline void sise_store64(char *p, uint64_t word) { memcpy(p, &word, sizeof word); }

static inline uint64_t sise_load32(const char *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

#define SISE_ZEROS 0x3030303030303030ull /* "00000000" */

/* *word* is ASCII ^ "00000000": are all bytes 0..9? Adding 0x76 sets the top bit of any other. */
static inline int sise_all_digits(uint64_t word) {
    return (((word + 0x7676767676767676ull) | word) & 0x8080808080808080ull) == 0;
}

/* The value of the last *digits* (1..8) bytes of *word*; 0 unless all of them are ASCII digits. */
static inline int sise_digits(uint64_t word, int digits, uint64_t *value) {
    const int unused = 8 * (8 - digits);
    word = ((word ^ SISE_ZEROS) >> unused) << unused; /* what stands in front of the field becomes zeros */
    if (!sise_all_digits(word))
        return 0;
    /* pairs, then fours, then all eight, each in one multiplication */
    word = ((word * 2561) >> 8) & 0x00ff00ff00ff00ffull;
    word = ((word * 6553601) >> 16) & 0x0000ffff0000ffffull;
    *value = (word * 42949672960001ull) >> 32;
    return 1;
}

/* The same of the 8 bytes at *p*. */
static inline int sise_eight_digits(const char *p, int digits, uint64_t *value) {
    return sise_digits(sise_load64(p), digits, value);
}

/* Bit 7 of each byte of *word* that equals *c*; exact, no carries between bytes. */
static inline uint64_t sise_equal_bytes(uint64_t word, char c) {
    const uint64_t low7 = 0x7f7f7f7f7f7f7f7full;
    uint64_t x = word ^ (0x0101010101010101ull * (uint8_t)c);
    return ~(((x & low7) + low7) | x | low7);
}

/* A decimal of 1..8 characters, the last *length* of the 8 bytes at *p*: [+-] digits [. digits]. 0 if it is none. */
static inline int sise_short_decimal(const char *p, int length, int64_t *mantissa, uint8_t *scale) {
    uint64_t word = sise_load64(p) >> (8 * (8 - length)), dot, magnitude;
    const uint8_t first = (uint8_t)word;
    const int64_t negative = first == '-';
    const int sign = negative | (first == '+');
    int point; /* how many characters stand in front of it */
    word >>= 8 * sign; /* no branch: the sign of a change is as good as random */
    length -= sign;
    dot = sise_equal_bytes(word, '.');
    *scale = 0;
    if (dot) {
        point = __builtin_ctzll(dot) >> 3;
        *scale = (uint8_t)(length - point - 1);
        if (*scale == 0) /* cut off behind its point */
            return 0;
        word = (word & ((1ull << (8 * point)) - 1)) | (word >> (8 * point + 8) << (8 * point));
        length--;
    }
    if (length < 1)
        return 0;
    if (!sise_digits(word << (8 * (8 - length)), length, &magnitude))
        return 0;
    *mantissa = ((int64_t)magnitude ^ -negative) + negative;
    return 1;
}

/* The same of 9..16 characters, the last *length* of the 16 bytes at *p*: prices above 999.9999. */
static inline int sise_long_decimal(const char *p, int length, int64_t *mantissa, uint8_t *scale) {
    unsigned __int128 word = ((unsigned __int128)sise_load64(p + 8) << 64 | sise_load64(p)) >> (8 * (16 - length));
    uint64_t low_dot, high_dot, low, high = 0;
    const uint8_t first = (uint8_t)word;
    const int64_t negative = first == '-';
    const int sign = negative | (first == '+');
    int point; /* how many characters stand in front of it: at least none, less than all */
    word >>= 8 * sign;
    length -= sign;
    low_dot = sise_equal_bytes((uint64_t)word, '.');
    high_dot = sise_equal_bytes((uint64_t)(word >> 64), '.');
    *scale = 0;
    if (low_dot | high_dot) {
        point = low_dot ? __builtin_ctzll(low_dot) >> 3 : 8 + (__builtin_ctzll(high_dot) >> 3);
        *scale = (uint8_t)(length - point - 1);
        if (*scale == 0) /* cut off behind its point */
            return 0;
        word = (word & (((unsigned __int128)1 << (8 * point)) - 1)) | (word >> (8 * point) >> 8 << (8 * point));
        length--;
    }
    if (length > 8) {
        if (!sise_digits((uint64_t)word << (8 * (16 - length)), length - 8, &high))
            return 0;
        word >>= 8 * (length - 8);
        length = 8;
    }
    if (!sise_digits((uint64_t)word << (8 * (8 - length)), length, &low))
        return 0;
    *mantissa = ((int64_t)(high * 100000000 + low) ^ -negative) + negative;
    return 1;
}

/* The length of the unsigned JSON number at *p*: at most 15 characters and no exponent, 0 if it is another. Reads 16
 * bytes. */
static inline int sise_number_length(const char *p) {
#if SISE_SIMD
    const __m128i values = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)(const void *)p), _mm_set1_epi8('0'));
    /* bit i: byte i is no digit */
    unsigned others = ~(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(values, _mm_set1_epi8(9)), values));
    int point, length;
    others &= 0xffff;
    if (others == 0)
        return 0;
    length = point = __builtin_ctz(others);
    if (point == 0 || (p[0] == '0' && point > 1))
        return 0;
    if (p[point] == '.') {
        others &= others - 1;
        if (others == 0)
            return 0;
        length = __builtin_ctz(others);
        if (length == point + 1) /* cut off behind its point */
            return 0;
    }
    return (p[length] | 0x20) == 'e' ? 0 : length;
#else
    (void)p;
    return 0;
#endif
}

/* HHMMSS, the 6 bytes at *p* -> seconds since midnight. 0 if that is no time of day. */
static inline int sise_hhmmss(const char *p, int32_t *seconds) {
    /* "HHMM" and, overlapping it, "MMSS" */
    uint64_t pairs = (sise_load32(p) << 16 | sise_load32(p + 2) << 32) ^ (SISE_ZEROS & ~0xffffull);
    if (!sise_all_digits(pairs))
        return 0;
    pairs = ((pairs * 2561) >> 8) & 0x00ff00ff00ff00ffull; /* 0, HH, MM, SS */
    /* 24, 60 and 60 would set the top bit of their byte */
    if ((pairs + ((uint64_t)(128 - 24) << 16 | (uint64_t)(128 - 60) << 32 | (uint64_t)(128 - 60) << 48)) &
        0x0080008000800000ull)
        return 0;
    *seconds = (int32_t)((pairs >> 16 & 0xff) * 3600 + (pairs >> 32 & 0xff) * 60 + (pairs >> 48));
    return 1;
}

/* Is every byte of *word* printable ASCII and none of " \ ^ | ? */
#if SISE_SIMD
static inline int sise_symbol_bytes(uint64_t word) {
    const __m128i twice = _mm_set1_epi64x((long long)word);
    const __m128i refused = _mm_or_si128(
        _mm_cmpeq_epi8(twice, _mm_set_epi64x(0x2222222222222222ll, 0x5c5c5c5c5c5c5c5cll)),
        _mm_cmpeq_epi8(twice, _mm_set_epi64x(0x5e5e5e5e5e5e5e5ell, 0x7c7c7c7c7c7c7c7cll)));
    /* signed: 0x80..0xff are below the space, and only 0x7f is above '~' */
    const __m128i outside = _mm_or_si128(_mm_cmplt_epi8(twice, _mm_set1_epi8(' ')),
                                         _mm_cmpeq_epi8(twice, _mm_set1_epi8(0x7f)));
    return _mm_movemask_epi8(_mm_or_si128(refused, outside)) == 0;
}
#else
static inline int sise_symbol_bytes(uint64_t word) {
    for (int i = 0; i < 8; i++, word >>= 8) {
        const uint8_t c = (uint8_t)word;
        if (c < ' ' || c > '~' || c == '"' || c == '\\' || c == '^' || c == '|')
            return 0;
    }
    return 1;
}
#endif

/* ---- separators: the offset behind each *c* of p[0..n-1], in order, to *behind*; returns how many there are.
 * *behind* has room for SISE_FIND_SLACK entries more than that: they are written in groups. */

#define SISE_FIND_SLACK 16

static inline size_t sise_find_portable(const char *p, size_t n, char c, uint32_t *behind) {
    size_t found = 0, i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint64_t hits = sise_equal_bytes(sise_load64(p + i), c); hits; hits &= hits - 1)
            behind[found++] = (uint32_t)(i + 1) + (uint32_t)(__builtin_ctzll(hits) >> 3);
    for (; i < n; i++)
        if (p[i] == c)
            behind[found++] = (uint32_t)(i + 1);
    return found;
}

#if SISE_SIMD

static inline uint64_t sise_match16(const char *p, __m128i needle) {
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), needle));
}

/* SSE2, which every x86-64 has. */
static inline size_t sise_find_sse2(const char *p, size_t n, char c, uint32_t *behind) {
    const __m128i needle = _mm_set1_epi8(c);
    size_t found = 0, at = 0, rest;
    for (; at + 64 <= n; at += 64) {
        uint64_t hits = sise_match16(p + at, needle) | sise_match16(p + at + 16, needle) << 16 |
                        sise_match16(p + at + 32, needle) << 32 | sise_match16(p + at + 48, needle) << 48;
        for (; hits; hits &= hits - 1)
            behind[found++] = (uint32_t)(at + 1) + (uint32_t)__builtin_ctzll(hits);
    }
    rest = sise_find_portable(p + at, n - at, c, behind + found);
    for (size_t i = 0; i < rest; i++)
        behind[found + i] += (uint32_t)at;
    return found + rest;
}

/* AVX-512 with VBMI2: 64 bytes at a time, their hits written sixteen at a time without a loop over them. */
__attribute__((target("avx512f,avx512bw,avx512vbmi2,bmi2,popcnt"))) static size_t
sise_find_avx512(const char *p, size_t n, char c, uint32_t *behind) {
    static const uint8_t numbers[64] __attribute__((aligned(64))) = {
        1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
        23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44,
        45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64};
    const __m512i needle = _mm512_set1_epi8(c), lanes = _mm512_load_si512(numbers);
    size_t found = 0;
    for (size_t at = 0; at < n; at += 64) {
        const __mmask64 valid = n - at >= 64 ? ~0ull : _bzhi_u64(~0ull, (unsigned)(n - at));
        const __mmask64 hits =
            _mm512_mask_cmpeq_epi8_mask(valid, _mm512_maskz_loadu_epi8(valid, p + at), needle);
        const __m512i base = _mm512_set1_epi32((int)at);
        __m512i packed = _mm512_maskz_compress_epi8(hits, lanes);
        const int count = (int)_mm_popcnt_u64(hits);
        int written = 0;
        do {
            _mm512_storeu_si512(behind + found + written,
                                _mm512_add_epi32(base, _mm512_cvtepu8_epi32(_mm512_castsi512_si128(packed))));
            packed = _mm512_shuffle_i64x2(packed, packed, 0x39); /* the next sixteen to the front */
            written += 16;
        } while (written < count);
        found += (size_t)count;
    }
    return found;
}

static int sise_avx512 = -1;

static inline int sise_has_avx512(void) {
    if (__builtin_expect(sise_avx512 < 0, 0))
        sise_avx512 = __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("bmi2");
    return sise_avx512;
}

static inline size_t sise_find(const char *p, size_t n, char c, uint32_t *behind) {
    return sise_has_avx512() ? sise_find_avx512(p, n, c, behind) : sise_find_sse2(p, n, c, behind);
}

#else

static inline size_t sise_find_sse2(const char *p, size_t n, char c, uint32_t *behind) {
    return sise_find_portable(p, n, c, behind);
}
static inline size_t sise_find(const char *p, size_t n, char c, uint32_t *behind) {
    return sise_find_portable(p, n, c, behind);
}

#endif

/* ---- plain integers: fields of 1..8 digits, many at once ---------------------------------------------------------
 *
 * Field f is base[begins[f] .. begins[f + 1] - 2]; 8 bytes in front of *base* can be read. The values of the fields
 * named by *numbers* go to values[0..count-1]; bit i of the result says that number i is one. count <= 64, and
 * *numbers* is readable up to a multiple of 8. Where a bit is not set the value is not specified. */

static inline uint64_t sise_integers_portable(const char *base, const uint32_t *begins, const uint8_t *numbers,
                                              int count, int64_t *values) {
    uint64_t found = 0, value;
    for (int i = 0; i < count; i++) {
        const uint32_t begin = begins[numbers[i]], end = begins[numbers[i] + 1] - 1;
        if (end - begin - 1 < 8 && sise_eight_digits(base + end - 8, (int)(end - begin), &value)) {
            values[i] = (int64_t)value;
            found |= 1ull << i;
        }
    }
    return found;
}

/* The same of plain decimals: 1..8 digits that may have a point between them. How many digits are behind it goes to
 * scales[0..count-1]. 9 bytes in front of *base* can be read. */

static inline uint64_t sise_decimals_portable(const char *base, const uint32_t *begins, const uint8_t *numbers,
                                              int count, int64_t *values, uint8_t *scales) {
    uint64_t found = 0;
    for (int i = 0; i < count; i++) {
        const uint32_t begin = begins[numbers[i]], end = begins[numbers[i] + 1] - 1;
        const char first = base[begin];
        if (end - begin - 1 < 9 && first != '+' && first != '-' && first != '.' &&
            (end - begin < 9 ? sise_short_decimal(base + end - 8, (int)(end - begin), values + i, scales + i)
                             : sise_long_decimal(base + end - 16, 9, values + i, scales + i) && scales[i]))
            found |= 1ull << i;
    }
    return found;
}

#if SISE_SIMD

/* The first *count* lanes of eight. Not with a mask: what a masked store wrote is read again at once by the checks and
 * the checksum, and would have to wait until it has left the store buffer. */
__attribute__((target("avx512f"))) static inline void sise_store_lanes(int64_t *values, __m512i word, int count) {
    __m256i half = _mm512_castsi512_si256(word);
    __m128i pair;
    if (count >= 8) {
        _mm512_storeu_si512(values, word);
        return;
    }
    if (count & 4) {
        _mm256_storeu_si256((__m256i *)values, half);
        values += 4;
        half = _mm512_extracti64x4_epi64(word, 1);
    }
    pair = _mm256_castsi256_si128(half);
    if (count & 2) {
        _mm_storeu_si128((__m128i *)values, pair);
        values += 2;
        pair = _mm256_extracti128_si256(half, 1);
    }
    if (count & 1)
        *values = _mm_cvtsi128_si64(pair);
}

__attribute__((target("avx512f,avx512bw,avx512vbmi2,bmi2,popcnt"))) static uint64_t
sise_integers_avx512(const char *base, const uint32_t *begins, const uint8_t *numbers, int count, int64_t *values) {
    const __m512i zeros = _mm512_set1_epi8('0'), one = _mm512_set1_epi64(1), eight = _mm512_set1_epi64(8);
    uint64_t found = 0;
    for (int i = 0; i < count; i += 8) {
        const __mmask8 lanes = count - i >= 8 ? 0xff : (__mmask8)((1u << (count - i)) - 1);
        const __m256i fields = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(numbers + i)));
        /* begins[f] in the low half of a lane, begins[f + 1] in the high one */
        const __m512i bounds = _mm512_i32gather_epi64(fields, begins, 4);
        const __m512i behind = _mm512_srli_epi64(bounds, 32);
        const __m512i length = _mm512_sub_epi64(
            behind, _mm512_add_epi64(_mm512_and_si512(bounds, _mm512_set1_epi64(0xffffffff)), one));
        const __m512i unused = _mm512_slli_epi64(_mm512_sub_epi64(eight, length), 3);
        const __mmask8 fit = _mm512_mask_cmplt_epu64_mask(lanes, _mm512_sub_epi64(length, one), eight);
        __m512i word = _mm512_xor_si512(_mm512_i64gather_epi64(behind, base - 9, 1), zeros);
        __mmask8 bad;
        word = _mm512_sllv_epi64(_mm512_srlv_epi64(word, unused), unused);
        bad = _mm512_test_epi64_mask(_mm512_or_si512(_mm512_add_epi8(word, _mm512_set1_epi8(0x76)), word),
                                     _mm512_set1_epi8((char)0x80));
        /* pairs, fours, eights */
        word = _mm512_maddubs_epi16(word, _mm512_set1_epi16(0x010a));
        word = _mm512_madd_epi16(word, _mm512_set1_epi32(0x00010064));
        word = _mm512_add_epi64(_mm512_mul_epu32(word, _mm512_set1_epi64(10000)), _mm512_srli_epi64(word, 32));
        sise_store_lanes(values + i, word, count - i);
        found |= (uint64_t)(__mmask8)(fit & ~bad) << i;
    }
    return found;
}

__attribute__((target("avx512f,avx512bw,avx512cd,avx512vbmi2,bmi2,popcnt"))) static uint64_t
sise_decimals_avx512(const char *base, const uint32_t *begins, const uint8_t *numbers, int count, int64_t *values,
                     uint8_t *scales) {
    const __m512i zeros = _mm512_set1_epi8('0'), one = _mm512_set1_epi64(1), eight = _mm512_set1_epi64(8);
    const __m512i top = _mm512_set1_epi8((char)0x80), ones = _mm512_set1_epi64(-1);
    uint64_t found = 0;
    for (int i = 0; i < count; i += 8) {
        const __mmask8 lanes = count - i >= 8 ? 0xff : (__mmask8)((1u << (count - i)) - 1);
        const __m256i fields = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(numbers + i)));
        const __m512i bounds = _mm512_i32gather_epi64(fields, begins, 4);
        const __m512i behind = _mm512_srli_epi64(bounds, 32);
        const __m512i length = _mm512_sub_epi64(
            behind, _mm512_add_epi64(_mm512_and_si512(bounds, _mm512_set1_epi64(0xffffffff)), one));
        /* the last 8 characters, and the 8 in front of the last: with a point, the digits in front of it are there */
        const __m512i last = _mm512_i64gather_epi64(behind, base - 9, 1);
        const __m512i shifted = _mm512_i64gather_epi64(behind, base - 10, 1);
        const __m512i in_front =
            _mm512_slli_epi64(_mm512_max_epi64(_mm512_sub_epi64(eight, length), _mm512_setzero_si512()), 3);
        const __m512i own = _mm512_sllv_epi64(_mm512_srlv_epi64(last, in_front), in_front);
        const __m512i point = _mm512_maskz_mov_epi8(_mm512_cmpeq_epi8_mask(own, _mm512_set1_epi8('.')), top);
        const __mmask8 pointed = _mm512_test_epi64_mask(point, point);
        const __m512i scale = _mm512_maskz_srli_epi64(pointed, _mm512_lzcnt_epi64(point), 3);
        /* bits of the characters up to the highest point */
        const __m512i up_to = _mm512_maskz_srlv_epi64(pointed, ones, _mm512_slli_epi64(scale, 3));
        const __m512i digits = _mm512_mask_sub_epi64(length, pointed, length, one);
        const __m512i unused = _mm512_slli_epi64(_mm512_sub_epi64(eight, digits), 3);
        const __mmask8 fit = _mm512_mask_cmplt_epu64_mask(lanes, _mm512_sub_epi64(digits, one), eight) &
                             ~(pointed & _mm512_cmpeq_epi64_mask(scale, _mm512_setzero_si512())) &
                             ~(pointed & _mm512_cmpeq_epi64_mask(scale, digits));
        __m512i word = _mm512_xor_si512(_mm512_ternarylogic_epi64(up_to, shifted, last, 0xca), zeros);
        __mmask8 bad;
        word = _mm512_sllv_epi64(_mm512_srlv_epi64(word, unused), unused);
        bad = _mm512_test_epi64_mask(_mm512_or_si512(_mm512_add_epi8(word, _mm512_set1_epi8(0x76)), word), top);
        word = _mm512_maddubs_epi16(word, _mm512_set1_epi16(0x010a));
        word = _mm512_madd_epi16(word, _mm512_set1_epi32(0x00010064));
        word = _mm512_add_epi64(_mm512_mul_epu32(word, _mm512_set1_epi64(10000)), _mm512_srli_epi64(word, 32));
        sise_store_lanes(values + i, word, count - i);
        _mm512_mask_cvtepi64_storeu_epi8(scales + i, lanes, scale);
        found |= (uint64_t)(__mmask8)(fit & ~bad) << i;
    }
    return found;
}

static inline uint64_t sise_integers(const char *base, const uint32_t *begins, const uint8_t *numbers, int count,
                                     int64_t *values) {
    return sise_has_avx512() ? sise_integers_avx512(base, begins, numbers, count, values)
                             : sise_integers_portable(base, begins, numbers, count, values);
}
static inline uint64_t sise_decimals(const char *base, const uint32_t *begins, const uint8_t *numbers, int count,
                                     int64_t *values, uint8_t *scales) {
    return sise_has_avx512() ? sise_decimals_avx512(base, begins, numbers, count, values, scales)
                             : sise_decimals_portable(base, begins, numbers, count, values, scales);
}

#else

static inline uint64_t sise_integers(const char *base, const uint32_t *begins, const uint8_t *numbers, int count,
                                     int64_t *values) {
    return sise_integers_portable(base, begins, numbers, count, values);
}
static inline uint64_t sise_decimals(const char *base, const uint32_t *begins, const uint8_t *numbers, int count,
                                     int64_t *values, uint8_t *scales) {
    return sise_decimals_portable(base, begins, numbers, count, values, scales);
}

#endif

#endif
