/* Generated from kis_layouts.toml by native_pipeline/kis_layouts.py: do not edit. */
#ifndef SISE_KIS_LAYOUTS_H
#define SISE_KIS_LAYOUTS_H

#include <stdint.h>

#include "layout.h"

#define SISE_KIS_TR_BYTES 8
#define SISE_KIS_ALTERNATIVE_BYTES 16
#define SISE_KIS_MAX_WIDTH 81
#define SISE_KIS_NO_FIELD (-1)

typedef struct {
    char tr[SISE_KIS_TR_BYTES]; /* not NUL terminated */
    uint8_t kind;               /* enum sise_record_kind */
    uint8_t type;               /* enum sise_event_type of an event */
    uint8_t market;             /* id in the market registry */
    uint8_t flags;              /* enum sise_record_flag: the exchange */
    uint8_t min_width;          /* fields of one record */
    uint8_t max_width;
    uint8_t narrower;           /* row of the same TR's records of another width; 0: there are none */
    uint8_t levels;             /* of an order book */
    int16_t utc_offset_min;     /* of times that do not tell theirs */
    char buy, sell;             /* codes of the side */
    uint64_t present;           /* bit i: number i below is in the record */
    uint8_t numbers[40];        /* positions of the numbers, in the order in which the record holds them; of an order
                                   book ten for each list; 0 where there is none */
    int8_t symbol, realtime_key, time, date, kst_time, kst_date, subsecond, price, size, cum_volume, best_ask, best_bid, change_rate, side, session;
    int8_t ask_price[SISE_LEVELS], ask_size[SISE_LEVELS], bid_price[SISE_LEVELS], bid_size[SISE_LEVELS];
    char alternative[SISE_KIS_ALTERNATIVE_BYTES]; /* NUL padded name of a row that must be asked for */
} sise_kis_layout;

/* first one row for each TR, then the others */
#define SISE_KIS_TRS 45
#define SISE_KIS_LAYOUTS 62

static const sise_kis_layout sise_kis_layouts[SISE_KIS_LAYOUTS] = {
    {
        .tr = "H0STCNT0", /* KRX stock trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 46, .max_width = 55, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 12, 13, 10, 11, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = 10, .best_bid = 11, .change_rate = 5, .side = 21, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0STASP0", /* KRX stock order book, 10 levels; no date on the wire */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 58, .max_width = 71, .narrower = 0,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = 2,
        .ask_price = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
        .ask_size = {23, 24, 25, 26, 27, 28, 29, 30, 31, 32},
        .bid_price = {13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
        .bid_size = {33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
    },
    {
        .tr = "H0NXCNT0", /* NXT stock trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = SISE_FLAG_NXT,
        .min_width = 46, .max_width = 55, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 12, 13, 10, 11, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = 10, .best_bid = 11, .change_rate = 5, .side = 21, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0NXASP0", /* NXT stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = SISE_FLAG_NXT,
        .min_width = 59, .max_width = 70, .narrower = 0,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = 2,
        .ask_price = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
        .ask_size = {23, 24, 25, 26, 27, 28, 29, 30, 31, 32},
        .bid_price = {13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
        .bid_size = {33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
    },
    {
        .tr = "H0UNCNT0", /* Unified (KRX+NXT) stock trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = SISE_FLAG_SOR,
        .min_width = 46, .max_width = 55, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 12, 13, 10, 11, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = 10, .best_bid = 11, .change_rate = 5, .side = 21, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0UNASP0", /* Unified (KRX+NXT) stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = SISE_FLAG_SOR,
        .min_width = 59, .max_width = 74, .narrower = 0,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = 2,
        .ask_price = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
        .ask_size = {23, 24, 25, 26, 27, 28, 29, 30, 31, 32},
        .bid_price = {13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
        .bid_size = {33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
    },
    {
        .tr = "HDFSCNT0", /* Overseas stock trade */
        .kind = SISE_TRADE, .type = 0, .market = 2, .flags = 0,
        .min_width = 26, .max_width = 34, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {11, 19, 20, 16, 15, 14},
        .symbol = 1, .realtime_key = 0, .time = 5, .date = 4, .kst_time = 7, .kst_date = 6, .subsecond = SISE_KIS_NO_FIELD,
        .price = 11, .size = 19, .cum_volume = 20, .best_ask = 16, .best_bid = 15, .change_rate = 14, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 71, .max_width = 79, .narrower = 45,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {12, 18, 24, 30, 36, 42, 48, 54, 60, 66, 14, 20, 26, 32, 38, 44, 50, 56, 62, 68, 11, 17, 23, 29, 35, 41, 47, 53, 59, 65, 13, 19, 25, 31, 37, 43, 49, 55, 61, 67},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24, 30, 36, 42, 48, 54, 60, 66},
        .ask_size = {14, 20, 26, 32, 38, 44, 50, 56, 62, 68},
        .bid_price = {11, 17, 23, 29, 35, 41, 47, 53, 59, 65},
        .bid_size = {13, 19, 25, 31, 37, 43, 49, 55, 61, 67},
    },
    {
        .tr = "HDFSASP1", /* Asian stock order book, 1 level */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 17, .max_width = 25, .narrower = 0,
        .levels = 1, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x40100401u, .numbers = {12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12},
        .ask_size = {14},
        .bid_price = {11},
        .bid_size = {13},
    },
    {
        .tr = "H0STANC0", /* KRX stock expected (indicative) trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 45, .max_width = 54, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xfu, .numbers = {2, 12, 13, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0NXANC0", /* NXT stock expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = SISE_FLAG_NXT,
        .min_width = 45, .max_width = 54, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xfu, .numbers = {2, 12, 13, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0UNANC0", /* KRX+NXT stock expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = SISE_FLAG_SOR,
        .min_width = 45, .max_width = 54, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xfu, .numbers = {2, 12, 13, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0STMKO0", /* KRX market operation / VI status */
        .kind = SISE_EVENT, .type = SISE_EVENT_STATUS, .market = 1, .flags = 0,
        .min_width = 10, .max_width = 18, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x0u, .numbers = {0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = SISE_KIS_NO_FIELD, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0NXMKO0", /* NXT market operation / VI status */
        .kind = SISE_EVENT, .type = SISE_EVENT_STATUS, .market = 1, .flags = SISE_FLAG_NXT,
        .min_width = 10, .max_width = 18, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x0u, .numbers = {0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = SISE_KIS_NO_FIELD, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0UNMKO0", /* Unified market operation; documented without the symbol, seen with it */
        .kind = SISE_EVENT, .type = SISE_EVENT_STATUS, .market = 1, .flags = SISE_FLAG_SOR,
        .min_width = 10, .max_width = 18, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x0u, .numbers = {0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = SISE_KIS_NO_FIELD, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0STPGM0", /* KRX program trading per stock */
        .kind = SISE_EVENT, .type = SISE_EVENT_PROGRAM, .market = 1, .flags = 0,
        .min_width = 11, .max_width = 19, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x0u, .numbers = {0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0NXPGM0", /* NXT program trading per stock */
        .kind = SISE_EVENT, .type = SISE_EVENT_PROGRAM, .market = 1, .flags = SISE_FLAG_NXT,
        .min_width = 11, .max_width = 19, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x0u, .numbers = {0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0UNPGM0", /* KRX+NXT program trading per stock */
        .kind = SISE_EVENT, .type = SISE_EVENT_PROGRAM, .market = 1, .flags = SISE_FLAG_SOR,
        .min_width = 11, .max_width = 19, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x0u, .numbers = {0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0UPCNT0", /* Domestic index level */
        .kind = SISE_EVENT, .type = SISE_EVENT_INDEX, .market = 1, .flags = 0,
        .min_width = 30, .max_width = 38, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xfu, .numbers = {2, 7, 5, 9},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 7, .cum_volume = 5, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 9, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0UPANC0", /* Domestic index expected level */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 15, .max_width = 23, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xdu, .numbers = {2, 0, 5, 9},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = SISE_KIS_NO_FIELD, .cum_volume = 5, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 9, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0STNAV0", /* ETF NAV */
        .kind = SISE_EVENT, .type = SISE_EVENT_NAV, .market = 1, .flags = 0,
        .min_width = 8, .max_width = 15, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x9u, .numbers = {1, 0, 0, 4},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = SISE_KIS_NO_FIELD, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 1, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 4, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0STOUP0", /* KRX overtime single-price trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 43, .max_width = 51, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 12, 13, 10, 11, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = 10, .best_bid = 11, .change_rate = 5, .side = 21, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0STOAA0", /* KRX overtime order book */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 58, .max_width = 66, .narrower = 0,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = 2,
        .ask_price = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
        .ask_size = {23, 24, 25, 26, 27, 28, 29, 30, 31, 32},
        .bid_price = {13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
        .bid_size = {33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
    },
    {
        .tr = "H0STOAC0", /* KRX overtime single-price expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 43, .max_width = 51, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xfu, .numbers = {2, 12, 13, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0EWCNT0", /* ELW trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 63, .max_width = 71, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 12, 13, 10, 11, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = 33, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 12, .cum_volume = 13, .best_ask = 10, .best_bid = 11, .change_rate = 5, .side = 21, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0EWASP0", /* ELW order book, 10 levels + LP quantities */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 73, .max_width = 81, .narrower = 0,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = 2,
        .ask_price = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
        .ask_size = {23, 24, 25, 26, 27, 28, 29, 30, 31, 32},
        .bid_price = {13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
        .bid_size = {33, 34, 35, 36, 37, 38, 39, 40, 41, 42},
    },
    {
        .tr = "H0IFCNT0", /* Index futures trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 50, .max_width = 58, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {5, 9, 10, 34, 35, 4},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 5, .size = 9, .cum_volume = 10, .best_ask = 34, .best_bid = 35, .change_rate = 4, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0IFASP0", /* Index futures order book, 5 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 38, .max_width = 46, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 22, 23, 24, 25, 26, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 27, 28, 29, 30, 31, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6},
        .ask_size = {22, 23, 24, 25, 26},
        .bid_price = {7, 8, 9, 10, 11},
        .bid_size = {27, 28, 29, 30, 31},
    },
    {
        .tr = "H0IOCNT0", /* Index option trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 58, .max_width = 66, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 9, 10, 41, 42, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 9, .cum_volume = 10, .best_ask = 41, .best_bid = 42, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0IOASP0", /* Index option order book, 5 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 38, .max_width = 46, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 22, 23, 24, 25, 26, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 27, 28, 29, 30, 31, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6},
        .ask_size = {22, 23, 24, 25, 26},
        .bid_price = {7, 8, 9, 10, 11},
        .bid_size = {27, 28, 29, 30, 31},
    },
    {
        .tr = "H0CFCNT0", /* Commodity futures trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 50, .max_width = 58, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {5, 9, 10, 34, 35, 4},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 5, .size = 9, .cum_volume = 10, .best_ask = 34, .best_bid = 35, .change_rate = 4, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0CFASP0", /* Commodity futures order book, 5 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 38, .max_width = 46, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 22, 23, 24, 25, 26, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 27, 28, 29, 30, 31, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6},
        .ask_size = {22, 23, 24, 25, 26},
        .bid_price = {7, 8, 9, 10, 11},
        .bid_size = {27, 28, 29, 30, 31},
    },
    {
        .tr = "H0ZFCNT0", /* Stock futures trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 49, .max_width = 57, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 9, 10, 34, 35, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 9, .cum_volume = 10, .best_ask = 34, .best_bid = 35, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0ZFASP0", /* Stock futures order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 68, .max_width = 75, .narrower = 54,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
        .ask_size = {42, 43, 44, 45, 46, 47, 48, 49, 50, 51},
        .bid_price = {12, 13, 14, 15, 16, 17, 18, 19, 20, 21},
        .bid_size = {52, 53, 54, 55, 56, 57, 58, 59, 60, 61},
    },
    {
        .tr = "H0ZFANC0", /* Stock futures expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 8, .max_width = 13, .narrower = 55,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xbu, .numbers = {2, 7, 0, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 7, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0ZOCNT0", /* Stock option trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 53, .max_width = 61, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 9, 10, 41, 42, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 9, .cum_volume = 10, .best_ask = 41, .best_bid = 42, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0ZOASP0", /* Stock option order book, 10 levels, of which 6 to 10 are appended */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 68, .max_width = 75, .narrower = 56,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {2, 3, 4, 5, 6, 38, 39, 40, 41, 42, 22, 23, 24, 25, 26, 58, 59, 60, 61, 62, 7, 8, 9, 10, 11, 43, 44, 45, 46, 47, 27, 28, 29, 30, 31, 63, 64, 65, 66, 67},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6, 38, 39, 40, 41, 42},
        .ask_size = {22, 23, 24, 25, 26, 58, 59, 60, 61, 62},
        .bid_price = {7, 8, 9, 10, 11, 43, 44, 45, 46, 47},
        .bid_size = {27, 28, 29, 30, 31, 63, 64, 65, 66, 67},
    },
    {
        .tr = "H0ZOANC0", /* Stock option expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 7, .max_width = 13, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x9u, .numbers = {2, 0, 0, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0MFCNT0", /* KRX night futures trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 46, .max_width = 57, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {5, 9, 10, 34, 35, 4},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 5, .size = 9, .cum_volume = 10, .best_ask = 34, .best_bid = 35, .change_rate = 4, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0MFASP0", /* KRX night futures order book, 5 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 38, .max_width = 46, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 22, 23, 24, 25, 26, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 27, 28, 29, 30, 31, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6},
        .ask_size = {22, 23, 24, 25, 26},
        .bid_price = {7, 8, 9, 10, 11},
        .bid_size = {27, 28, 29, 30, 31},
    },
    {
        .tr = "H0EUCNT0", /* KRX night option trade */
        .kind = SISE_TRADE, .type = 0, .market = 1, .flags = 0,
        .min_width = 53, .max_width = 64, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fu, .numbers = {2, 9, 10, 41, 42, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 9, .cum_volume = 10, .best_ask = 41, .best_bid = 42, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0EUASP0", /* KRX night option order book, 5 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 38, .max_width = 46, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 22, 23, 24, 25, 26, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 27, 28, 29, 30, 31, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6},
        .ask_size = {22, 23, 24, 25, 26},
        .bid_price = {7, 8, 9, 10, 11},
        .bid_size = {27, 28, 29, 30, 31},
    },
    {
        .tr = "H0EUANC0", /* KRX night option expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 8, .max_width = 13, .narrower = 57,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xbu, .numbers = {2, 7, 0, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = 7, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "HDFFF020", /* Overseas futures/options trade */
        .kind = SISE_TRADE, .type = 0, .market = 2, .flags = 0,
        .min_width = 25, .max_width = 33, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '2', .sell = '5',
        .present = 0x27u, .numbers = {10, 11, 17, 0, 0, 13},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 8, .date = 7, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = 20,
        .price = 10, .size = 11, .cum_volume = 17, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 13, .side = 19, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "HDFFF010", /* Overseas futures/options order book, 5 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 35, .max_width = 43, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {9, 15, 21, 27, 33, 0, 0, 0, 0, 0, 7, 13, 19, 25, 31, 0, 0, 0, 0, 0, 6, 12, 18, 24, 30, 0, 0, 0, 0, 0, 4, 10, 16, 22, 28, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 2, .date = 1, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {9, 15, 21, 27, 33},
        .ask_size = {7, 13, 19, 25, 31},
        .bid_price = {6, 12, 18, 24, 30},
        .bid_size = {4, 10, 16, 22, 28},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 17, .max_width = 17, .narrower = 46,
        .levels = 1, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x40100401u, .numbers = {12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12},
        .ask_size = {14},
        .bid_price = {11},
        .bid_size = {13},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 23, .max_width = 23, .narrower = 47,
        .levels = 2, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xc0300c03u, .numbers = {12, 18, 0, 0, 0, 0, 0, 0, 0, 0, 14, 20, 0, 0, 0, 0, 0, 0, 0, 0, 11, 17, 0, 0, 0, 0, 0, 0, 0, 0, 13, 19, 0, 0, 0, 0, 0, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18},
        .ask_size = {14, 20},
        .bid_price = {11, 17},
        .bid_size = {13, 19},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 29, .max_width = 29, .narrower = 48,
        .levels = 3, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x1c0701c07u, .numbers = {12, 18, 24, 0, 0, 0, 0, 0, 0, 0, 14, 20, 26, 0, 0, 0, 0, 0, 0, 0, 11, 17, 23, 0, 0, 0, 0, 0, 0, 0, 13, 19, 25, 0, 0, 0, 0, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24},
        .ask_size = {14, 20, 26},
        .bid_price = {11, 17, 23},
        .bid_size = {13, 19, 25},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 35, .max_width = 35, .narrower = 49,
        .levels = 4, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3c0f03c0fu, .numbers = {12, 18, 24, 30, 0, 0, 0, 0, 0, 0, 14, 20, 26, 32, 0, 0, 0, 0, 0, 0, 11, 17, 23, 29, 0, 0, 0, 0, 0, 0, 13, 19, 25, 31, 0, 0, 0, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24, 30},
        .ask_size = {14, 20, 26, 32},
        .bid_price = {11, 17, 23, 29},
        .bid_size = {13, 19, 25, 31},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 41, .max_width = 41, .narrower = 50,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {12, 18, 24, 30, 36, 0, 0, 0, 0, 0, 14, 20, 26, 32, 38, 0, 0, 0, 0, 0, 11, 17, 23, 29, 35, 0, 0, 0, 0, 0, 13, 19, 25, 31, 37, 0, 0, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24, 30, 36},
        .ask_size = {14, 20, 26, 32, 38},
        .bid_price = {11, 17, 23, 29, 35},
        .bid_size = {13, 19, 25, 31, 37},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 47, .max_width = 47, .narrower = 51,
        .levels = 6, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xfc3f0fc3fu, .numbers = {12, 18, 24, 30, 36, 42, 0, 0, 0, 0, 14, 20, 26, 32, 38, 44, 0, 0, 0, 0, 11, 17, 23, 29, 35, 41, 0, 0, 0, 0, 13, 19, 25, 31, 37, 43, 0, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24, 30, 36, 42},
        .ask_size = {14, 20, 26, 32, 38, 44},
        .bid_price = {11, 17, 23, 29, 35, 41},
        .bid_size = {13, 19, 25, 31, 37, 43},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 53, .max_width = 53, .narrower = 52,
        .levels = 7, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x1fc7f1fc7fu, .numbers = {12, 18, 24, 30, 36, 42, 48, 0, 0, 0, 14, 20, 26, 32, 38, 44, 50, 0, 0, 0, 11, 17, 23, 29, 35, 41, 47, 0, 0, 0, 13, 19, 25, 31, 37, 43, 49, 0, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24, 30, 36, 42, 48},
        .ask_size = {14, 20, 26, 32, 38, 44, 50},
        .bid_price = {11, 17, 23, 29, 35, 41, 47},
        .bid_size = {13, 19, 25, 31, 37, 43, 49},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 59, .max_width = 59, .narrower = 53,
        .levels = 8, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x3fcff3fcffu, .numbers = {12, 18, 24, 30, 36, 42, 48, 54, 0, 0, 14, 20, 26, 32, 38, 44, 50, 56, 0, 0, 11, 17, 23, 29, 35, 41, 47, 53, 0, 0, 13, 19, 25, 31, 37, 43, 49, 55, 0, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24, 30, 36, 42, 48, 54},
        .ask_size = {14, 20, 26, 32, 38, 44, 50, 56},
        .bid_price = {11, 17, 23, 29, 35, 41, 47, 53},
        .bid_size = {13, 19, 25, 31, 37, 43, 49, 55},
    },
    {
        .tr = "HDFSASP0", /* US stock order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 65, .max_width = 65, .narrower = 0,
        .levels = 9, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7fdff7fdffu, .numbers = {12, 18, 24, 30, 36, 42, 48, 54, 60, 0, 14, 20, 26, 32, 38, 44, 50, 56, 62, 0, 11, 17, 23, 29, 35, 41, 47, 53, 59, 0, 13, 19, 25, 31, 37, 43, 49, 55, 61, 0},
        .symbol = 1, .realtime_key = 0, .time = 4, .date = 3, .kst_time = 6, .kst_date = 5, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {12, 18, 24, 30, 36, 42, 48, 54, 60},
        .ask_size = {14, 20, 26, 32, 38, 44, 50, 56, 62},
        .bid_price = {11, 17, 23, 29, 35, 41, 47, 53, 59},
        .bid_size = {13, 19, 25, 31, 37, 43, 49, 55, 61},
    },
    {
        .tr = "H0ZFASP0", /* Stock futures order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 38, .max_width = 46, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 22, 23, 24, 25, 26, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 27, 28, 29, 30, 31, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6},
        .ask_size = {22, 23, 24, 25, 26},
        .bid_price = {7, 8, 9, 10, 11},
        .bid_size = {27, 28, 29, 30, 31},
    },
    {
        .tr = "H0ZFANC0", /* Stock futures expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 7, .max_width = 7, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x9u, .numbers = {2, 0, 0, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0ZOASP0", /* Stock option order book, 10 levels, of which 6 to 10 are appended */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 38, .max_width = 46, .narrower = 0,
        .levels = 5, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 22, 23, 24, 25, 26, 0, 0, 0, 0, 0, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0, 27, 28, 29, 30, 31, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6},
        .ask_size = {22, 23, 24, 25, 26},
        .bid_price = {7, 8, 9, 10, 11},
        .bid_size = {27, 28, 29, 30, 31},
    },
    {
        .tr = "H0EUANC0", /* KRX night option expected trade */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 7, .max_width = 7, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0x9u, .numbers = {2, 0, 0, 5},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 5, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
    },
    {
        .tr = "H0UPANC0", /* Domestic index expected level */
        .kind = SISE_EVENT, .type = SISE_EVENT_EXPECTED, .market = 1, .flags = 0,
        .min_width = 30, .max_width = 38, .narrower = 0,
        .levels = 0, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xdu, .numbers = {2, 0, 5, 9},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = 2, .size = SISE_KIS_NO_FIELD, .cum_volume = 5, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 9, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .alternative = "wide",
    },
    {
        .tr = "H0ZFASP0", /* Stock futures order book, 10 levels */
        .kind = SISE_BOOK, .type = 0, .market = 1, .flags = 0,
        .min_width = 68, .max_width = 75, .narrower = 54,
        .levels = 10, .utc_offset_min = 540, .buy = '1', .sell = '5',
        .present = 0xffffffffffu, .numbers = {2, 3, 4, 5, 6, 38, 39, 40, 41, 42, 22, 23, 24, 25, 26, 58, 59, 60, 61, 62, 7, 8, 9, 10, 11, 43, 44, 45, 46, 47, 27, 28, 29, 30, 31, 63, 64, 65, 66, 67},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 1, .date = SISE_KIS_NO_FIELD, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {2, 3, 4, 5, 6, 38, 39, 40, 41, 42},
        .ask_size = {22, 23, 24, 25, 26, 58, 59, 60, 61, 62},
        .bid_price = {7, 8, 9, 10, 11, 43, 44, 45, 46, 47},
        .bid_size = {27, 28, 29, 30, 31, 63, 64, 65, 66, 67},
        .alternative = "appended",
    },
    {
        .tr = "HDFFF020", /* Overseas futures/options trade */
        .kind = SISE_TRADE, .type = 0, .market = 2, .flags = 0,
        .min_width = 25, .max_width = 33, .narrower = 0,
        .levels = 0, .utc_offset_min = 0, .buy = '2', .sell = '5',
        .present = 0x27u, .numbers = {10, 11, 17, 0, 0, 13},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 8, .date = 7, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = 20,
        .price = 10, .size = 11, .cum_volume = 17, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = 13, .side = 19, .session = SISE_KIS_NO_FIELD,
        .alternative = "utc",
    },
    {
        .tr = "HDFFF010", /* Overseas futures/options order book, 5 levels */
        .kind = SISE_BOOK, .type = 0, .market = 2, .flags = 0,
        .min_width = 35, .max_width = 43, .narrower = 0,
        .levels = 5, .utc_offset_min = 0, .buy = '1', .sell = '5',
        .present = 0x7c1f07c1fu, .numbers = {9, 15, 21, 27, 33, 0, 0, 0, 0, 0, 7, 13, 19, 25, 31, 0, 0, 0, 0, 0, 6, 12, 18, 24, 30, 0, 0, 0, 0, 0, 4, 10, 16, 22, 28, 0, 0, 0, 0, 0},
        .symbol = 0, .realtime_key = SISE_KIS_NO_FIELD, .time = 2, .date = 1, .kst_time = SISE_KIS_NO_FIELD, .kst_date = SISE_KIS_NO_FIELD, .subsecond = SISE_KIS_NO_FIELD,
        .price = SISE_KIS_NO_FIELD, .size = SISE_KIS_NO_FIELD, .cum_volume = SISE_KIS_NO_FIELD, .best_ask = SISE_KIS_NO_FIELD, .best_bid = SISE_KIS_NO_FIELD, .change_rate = SISE_KIS_NO_FIELD, .side = SISE_KIS_NO_FIELD, .session = SISE_KIS_NO_FIELD,
        .ask_price = {9, 15, 21, 27, 33},
        .ask_size = {7, 13, 19, 25, 31},
        .bid_price = {6, 12, 18, 24, 30},
        .bid_size = {4, 10, 16, 22, 28},
        .alternative = "utc",
    },
};

#endif
