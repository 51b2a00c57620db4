/* Which field (FID) of which Kiwoom real-time type means what.
 *
 * Only the fields that records hold have a slot; all others share SISE_KIWOOM_IGNORED. The forty of a book come first,
 * in the order of sise_book, so that their numbers can be read all at once.
 */
#ifndef SISE_KIWOOM_TYPES_H
#define SISE_KIWOOM_TYPES_H

#include <stdint.h>
#include <string.h>

#include "layout.h"

#define SISE_KIWOOM_LEVELS 40 /* 41-50 ask prices, 61-70 ask sizes, 51-60 bid prices, 71-80 bid sizes */

enum sise_kiwoom_slot_number {
    SISE_KIWOOM_PRICE = SISE_KIWOOM_LEVELS, /* 10 */
    SISE_KIWOOM_CHANGE_RATE,                /* 12 */
    SISE_KIWOOM_CUM_VOLUME,                 /* 13 */
    SISE_KIWOOM_VOLUME,                     /* 15: signed by the side */
    SISE_KIWOOM_TIME,                       /* 20 */
    SISE_KIWOOM_BOOK_TIME,                  /* 21 */
    SISE_KIWOOM_ASK,                        /* 27 */
    SISE_KIWOOM_BID,                        /* 28 */
    SISE_KIWOOM_NAV,                        /* 36 */
    SISE_KIWOOM_NAV_CHANGE_RATE,            /* 38 */
    SISE_KIWOOM_VI_PRICE,                   /* 1221 */
    SISE_KIWOOM_VI_TIME,                    /* 1223 */
    SISE_KIWOOM_VI_CHANGE_RATE,             /* 1489 */
    SISE_KIWOOM_VI_SYMBOL,                  /* 9001 */
    SISE_KIWOOM_IGNORED,                    /* all others */
    SISE_KIWOOM_NONE,                       /* never filled: what a type does not have */
    SISE_KIWOOM_SLOTS,
};

/* The FID of each slot: what the detail of a quarantine record says. */
static const uint16_t sise_kiwoom_fids[SISE_KIWOOM_SLOTS] = {
    41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, /* asks */
    51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, /* bids */
    10, 12, 13, 15, 20, 21, 27, 28, 36, 38, 1221, 1223, 1489, 9001, 0, 0};

#define I SISE_KIWOOM_IGNORED
/* Slot of each FID of two digits. */
static const uint8_t sise_kiwoom_slots[100] = {
    I, I, I, I, I, I, I, I, I, I,
    SISE_KIWOOM_PRICE, I, SISE_KIWOOM_CHANGE_RATE, SISE_KIWOOM_CUM_VOLUME, I, SISE_KIWOOM_VOLUME, I, I, I, I,
    SISE_KIWOOM_TIME, SISE_KIWOOM_BOOK_TIME, I, I, I, I, I, SISE_KIWOOM_ASK, SISE_KIWOOM_BID, I,
    I, I, I, I, I, I, SISE_KIWOOM_NAV, I, SISE_KIWOOM_NAV_CHANGE_RATE, I,
    I, 0, 1, 2, 3, 4, 5, 6, 7, 8,
    9, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 10, 11, 12, 13, 14, 15, 16, 17, 18,
    19, 30, 31, 32, 33, 34, 35, 36, 37, 38,
    39, I, I, I, I, I, I, I, I, I,
    I, I, I, I, I, I, I, I, I, I};
#undef I

/* The slot of the field called key[0..size-1]. */
static inline unsigned sise_kiwoom_slot(const char *key, size_t size) {
    if (size == 2) {
        const unsigned tens = (unsigned)(uint8_t)key[0] - '0', ones = (unsigned)(uint8_t)key[1] - '0';
        if (tens < 10 && ones < 10)
            return sise_kiwoom_slots[tens * 10 + ones];
    } else if (size == 4) {
        for (unsigned slot = SISE_KIWOOM_VI_PRICE; slot <= SISE_KIWOOM_VI_SYMBOL; slot++)
            if (memcmp(key, &"1221122314899001"[4 * (slot - SISE_KIWOOM_VI_PRICE)], 4) == 0)
                return slot;
    }
    return SISE_KIWOOM_IGNORED;
}

typedef struct {
    char code[2];
    uint8_t kind;  /* enum sise_record_kind */
    uint8_t event; /* enum sise_event_type */
    uint8_t time, price, volume, cum_volume, change_rate, ask, bid; /* slots */
    uint8_t symbol; /* slot that names the issue where `item` is empty; entries without any are accepted then */
} sise_kiwoom_type;

#define SISE_KIWOOM_TYPES 11
#define NO SISE_KIWOOM_NONE
#define SISE_EVENT_OF(type, time, price, volume, cum, rate, symbol)                                                    \
    SISE_EVENT, SISE_EVENT_##type, time, price, volume, cum, rate, NO, NO, symbol
#define SISE_LIKE_A_TRADE(type, volume)                                                                                \
    SISE_EVENT_OF(type, SISE_KIWOOM_TIME, SISE_KIWOOM_PRICE, volume, SISE_KIWOOM_CUM_VOLUME, SISE_KIWOOM_CHANGE_RATE,  \
                  SISE_KIWOOM_IGNORED)

static const sise_kiwoom_type sise_kiwoom_types[SISE_KIWOOM_TYPES] = {
    {"0B", SISE_TRADE, 0, SISE_KIWOOM_TIME, SISE_KIWOOM_PRICE, SISE_KIWOOM_VOLUME, SISE_KIWOOM_CUM_VOLUME,
     SISE_KIWOOM_CHANGE_RATE, SISE_KIWOOM_ASK, SISE_KIWOOM_BID, SISE_KIWOOM_IGNORED},
    {"0D", SISE_BOOK, 0, SISE_KIWOOM_BOOK_TIME, NO, NO, NO, NO, NO, NO, SISE_KIWOOM_IGNORED},
    /* quote without a trade, best bid and ask: no time */
    {"0A", SISE_EVENT_OF(QUOTE, NO, SISE_KIWOOM_PRICE, NO, SISE_KIWOOM_CUM_VOLUME, SISE_KIWOOM_CHANGE_RATE,
                         SISE_KIWOOM_IGNORED)},
    {"0C", SISE_EVENT_OF(QUOTE, NO, NO, NO, NO, NO, SISE_KIWOOM_IGNORED)},
    {"0H", SISE_LIKE_A_TRADE(EXPECTED, SISE_KIWOOM_VOLUME)},
    /* sector index, and the numbers of its rising and falling issues */
    {"0J", SISE_LIKE_A_TRADE(INDEX, SISE_KIWOOM_VOLUME)},
    {"0U", SISE_LIKE_A_TRADE(INDEX, NO)},
    {"0G", SISE_EVENT_OF(NAV, SISE_KIWOOM_TIME, SISE_KIWOOM_NAV, NO, SISE_KIWOOM_CUM_VOLUME,
                         SISE_KIWOOM_NAV_CHANGE_RATE, SISE_KIWOOM_IGNORED)},
    {"0w", SISE_LIKE_A_TRADE(PROGRAM, NO)},
    /* market operation; volatility interruption */
    {"0s", SISE_EVENT_OF(STATUS, SISE_KIWOOM_TIME, NO, NO, NO, NO, SISE_KIWOOM_NONE)},
    {"1h", SISE_EVENT_OF(STATUS, SISE_KIWOOM_VI_TIME, SISE_KIWOOM_VI_PRICE, NO, SISE_KIWOOM_CUM_VOLUME,
                         SISE_KIWOOM_VI_CHANGE_RATE, SISE_KIWOOM_VI_SYMBOL)},
};
#undef SISE_LIKE_A_TRADE
#undef SISE_EVENT_OF
#undef NO

/* begins of sise_integers for the forty of a book, whose slots are pairs (begin, end + 1) */
static const uint8_t sise_kiwoom_level_numbers[SISE_KIWOOM_LEVELS] = {
    0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38,
    40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 64, 66, 68, 70, 72, 74, 76, 78};

static_assert(2 * SISE_KIWOOM_SLOTS <= 120, "KiwoomEntry.values");

#endif
