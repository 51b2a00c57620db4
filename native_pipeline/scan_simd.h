/* Many bytes at once: finding one byte in a block with SSE2 (and a portable twin), reading eight digits in one word.
 *
 * Nothing here reads a byte outside [p, p + n). A block is 64 bytes; bit i of a mask stands for byte i of its block.
 */
#ifndef SISE_SCAN_SIMD_H
#define SISE_SCAN_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) && !defined(SISE_NO_SIMD)
#include <emmintrin.h>
#define SISE_SIMD 1
#else
#define SISE_SIMD 0
#endif

#define SISE_BLOCK 64

/* 8 bytes as a little-endian word: the first byte is the lowest. */
static inline uint64_t sise_load64(const char *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* The value of the last *digits* (1..8) of the 8 bytes at *p*; 0 unless all of them are ASCII digits. */
static inline int sise_eight_digits(const char *p, int digits, uint64_t *value) {
    const uint64_t high = 0xf0f0f0f0f0f0f0f0ull;
    const int unused = 8 * (8 - digits);
    uint64_t word = sise_load64(p);
    /* what stands in front of the field becomes leading zeros */
    word = ((word >> unused) << unused) | (0x3030303030303030ull & ((1ull << unused) - 1));
    /* a digit is 0x30..0x39: its high half is 3, and still is after adding 6 */
    if (((word & high) | (((word + 0x0606060606060606ull) & high) >> 4)) != 0x3333333333333333ull)
        return 0;
    /* pairs, then fours, then all eight, each in one multiplication */
    word = ((word & 0x0f0f0f0f0f0f0f0full) * 2561) >> 8;
    word = ((word & 0x00ff00ff00ff00ffull) * 6553601) >> 16;
    *value = ((word & 0x0000ffff0000ffffull) * 42949672960001ull) >> 32;
    return 1;
}

/* Bit 7 of each byte of *word* that equals *c*; exact, no carries between bytes. */
static inline uint64_t sise_equal_bytes(uint64_t word, char c) {
    const uint64_t low7 = 0x7f7f7f7f7f7f7f7full;
    uint64_t x = word ^ (0x0101010101010101ull * (uint8_t)c);
    return ~(((x & low7) + low7) | x | low7);
}

static inline uint64_t sise_match_block_portable(const char *p, char c) {
    uint64_t mask = 0;
    for (int i = 0; i < SISE_BLOCK / 8; i++) {
        uint64_t hits = sise_equal_bytes(sise_load64(p + 8 * i), c) >> 7;
        mask |= ((hits * 0x0102040810204080ull) >> 56) << (8 * i);
    }
    return mask;
}

static inline size_t sise_count_byte_portable(const char *p, size_t n, char c) {
    size_t count = 0, i = 0;
    for (; i + 8 <= n; i += 8)
        count += ((sise_equal_bytes(sise_load64(p + i), c) >> 7) * 0x0101010101010101ull) >> 56;
    for (; i < n; i++)
        count += p[i] == c;
    return count;
}

#if SISE_SIMD

static inline uint64_t sise_match16(const char *p, __m128i needle) {
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), needle));
}

/* Mask of the bytes that equal *c* in p[0..63]. */
static inline uint64_t sise_match_block(const char *p, char c) {
    const __m128i needle = _mm_set1_epi8(c);
    return sise_match16(p, needle) | sise_match16(p + 16, needle) << 16 | sise_match16(p + 32, needle) << 32 |
           sise_match16(p + 48, needle) << 48;
}

/* How often *c* occurs in p[0..n-1]. */
static inline size_t sise_count_byte(const char *p, size_t n, char c) {
    const __m128i needle = _mm_set1_epi8(c);
    __m128i total = _mm_setzero_si128();
    size_t i = 0, count;
    while (i + 16 <= n) {
        __m128i lanes = _mm_setzero_si128(); /* a lane counts to 255 at most */
        size_t stop = n - i > 255 * 16 ? i + 255 * 16 : n;
        for (; i + 16 <= stop; i += 16)
            lanes = _mm_sub_epi8(lanes, _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i)), needle));
        total = _mm_add_epi64(total, _mm_sad_epu8(lanes, _mm_setzero_si128()));
    }
    count = (size_t)_mm_cvtsi128_si64(total) + (size_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(total, total));
    if (i < n && n >= 16) { /* the last 16 bytes again, without those that were counted */
        uint32_t mask = (uint32_t)_mm_movemask_epi8(
            _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + n - 16)), needle));
        count += (size_t)__builtin_popcount(mask >> (16 - (n - i)));
    } else {
        count += sise_count_byte_portable(p + i, n - i, c);
    }
    return count;
}

#else

static inline uint64_t sise_match_block(const char *p, char c) { return sise_match_block_portable(p, c); }
static inline size_t sise_count_byte(const char *p, size_t n, char c) { return sise_count_byte_portable(p, n, c); }

#endif

/* As sise_match_block, of the n < 64 bytes at p: copied, so that nothing behind them is read. */
static inline uint64_t sise_match_tail(const char *p, size_t n, char c) {
    char block[SISE_BLOCK];
    memset(block, (char)~c, sizeof block);
    memcpy(block, p, n);
    return sise_match_block(block, c);
}

#endif
