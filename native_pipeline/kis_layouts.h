/* Generated from kis_layouts.toml by native_pipeline/kis_layouts.py: do not edit. */
#ifndef SISE_KIS_LAYOUTS_H
#define SISE_KIS_LAYOUTS_H

#include <stdint.h>

#include "layout.h"

#define SISE_KIS_TR_BYTES 8
#define SISE_KIS_MAX_WIDTH 71
#define SISE_KIS_NO_FIELD (-1)

typedef struct {
    char tr[SISE_KIS_TR_BYTES]; /* not NUL terminated */
    uint8_t kind;               /* enum sise_record_kind */
    uint8_t min_width;          /* fields of one record */
    uint8_t max_width;
    uint8_t needed;             /* fields that must be split off: the last position read, plus one */
    uint8_t levels;             /* of an order book */
    uint8_t numbers[40];        /* positions of the numbers, in the order in which the record holds them */
    uint8_t number_count;       /* 0: not every number is there, they are read one by one */
    int8_t symbol, time, date, price, size, cum_volume, best_ask, best_bid, change_rate, side, session;
    int8_t ask_price[SISE_LEVELS], ask_size[SISE_LEVELS], bid_price[SISE_LEVELS], bid_size[SISE_LEVELS];
} sise_kis_layout;

#define SISE_KIS_LAYOUTS 2

static const sise_kis_layout sise_kis_layouts[SISE_KIS_LAYOUTS] = {
    {
        .tr = "H0STCNT0", /* KRX stock trade */
        .kind = SISE_TRADE, .min_width = 46, .max_width = 55,
        .needed = 34, .levels = 0,
        .numbers = {2, 12, 13, 10, 11, 5}, .number_count = 6,
        .symbol = 0, .time = 1, .date = 33, .price = 2, .size = 12, .cum_volume = 13, .best_ask = 10, .best_bid = 11, .change_rate = 5, .side = 21, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0STASP0", /* KRX stock order book, 10 levels; no date on the wire */
        .kind = SISE_BOOK, .min_width = 58, .max_width = 71,
        .needed = 43, .levels = 10,
        .numbers = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42}, .number_count = 40,
        .symbol = 0, .time = 1, .date = SISE_KIS_NO_FIELD, .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = 2,
        .ask_price = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
        .ask_size = {23, 24, 25, 26, 27, 28, 29, 30, 31, 32},
        .bid_price = {13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
        .bid_size = {33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
    },
};

#endif
