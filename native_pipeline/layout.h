/* Every structure that two processes share: ring header, consumer slot, records, counters.
 *
 * Written once, by hand, with offsets in comments and an assertion on each; docs/formats.md holds the same
 * tables and tests/spec/test_layout.py compares the two. All integers are little endian, all times are
 * nanoseconds since 1970-01-01 UTC unless the name says `mono`. A change of any offset here is a new
 * SISE_LAYOUT_VERSION: a reader refuses every other version.
 */
#ifndef SISE_LAYOUT_H
#define SISE_LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the ring format is little endian and so must be the machine"
#endif

#define SISE_RING_MAGIC 0x474e495245534953ull     /* "SISERING" */
#define SISE_COUNTERS_MAGIC 0x544e554345534953ull /* "SISECUNT" */
#define SISE_LAYOUT_VERSION 1u

#define SISE_CACHE_LINE 64
#define SISE_SYMBOL_BYTES 24
#define SISE_LEVELS 10
#define SISE_CONSUMERS 8
#define SISE_NAME_BYTES 16
#define SISE_INDEX_BLOCKS 256
#define SISE_RING_HEADER_BYTES 8192

/* A decimal as the venue wrote it is (mantissa, scale): value = mantissa / 10^scale, exact. */
#define SISE_ABSENT INT64_MIN /* mantissa of a value that the venue did not send */
#define SISE_MAX_SCALE 18

enum sise_record_kind {
    SISE_TRADE = 1,
    SISE_BOOK = 2,
    SISE_QUARANTINE = 3,
    SISE_GAP = 4,
    SISE_LEDGER = 5,
    SISE_EVENT = 6, /* market data that is neither a trade nor a book */
    SISE_RAW = 7,   /* a message as received; only in the rings of the recorder */
    SISE_PAD = 255,
};

enum sise_record_flag {
    SISE_FLAG_CROSSED = 1,   /* best bid above best ask: kept, marked */
    SISE_FLAG_TRUNCATED = 2, /* quarantine: the frame was longer than what is kept */
    SISE_FLAG_AUCTION = 4,   /* book of an auction phase: prices are indicative */
    SISE_FLAG_LATE = 8,      /* trade: arrived behind a later one of its stream */
    SISE_FLAG_NXT = 16,      /* of the alternative exchange NXT; neither this nor the next: of the main exchange */
    SISE_FLAG_SOR = 32,      /* of all exchanges together (unified, smart order routing) */
    SISE_FLAG_CLOCK_STEP = 64, /* first record after the wall clock was found to have jumped: recv_ns is not in line */
    SISE_FLAG_RESUMED = 128, /* first record after a repair: its seq jumps on purpose */
};

enum sise_side { SISE_SIDE_NONE = 0, SISE_SIDE_BUY = 1, SISE_SIDE_SELL = 2 };

/* What a record of kind SISE_EVENT tells: index into native_pipeline.records.EVENT_NAMES. */
enum sise_event_type {
    SISE_EVENT_EXPECTED = 1, /* indicative price of an auction */
    SISE_EVENT_INDEX = 2,    /* level of an index */
    SISE_EVENT_NAV = 3,      /* net asset value of a fund */
    SISE_EVENT_STATUS = 4,   /* market operation, halt, volatility interruption */
    SISE_EVENT_PROGRAM = 5,  /* program trading */
    SISE_EVENT_QUOTE = 6,    /* price without a trade: snapshot, best bid and ask, ticker */
};

enum sise_consumer_mode { SISE_CONSUMER_FREE = 0, SISE_CONSUMER_GATING = 1, SISE_CONSUMER_LOSSY = 2 };

/* ---- records ------------------------------------------------------------------------------------ */

typedef struct {
    uint32_t length;        /*  0: whole record, header included, a multiple of 8 */
    uint32_t crc32c;        /*  4: of the bytes from offset 8 to length */
    uint64_t seq;           /*  8: position in the ring's stream, +1 for each record, pads excluded */
    int64_t recv_ns;        /* 16: wall clock at the socket read that delivered the frame */
    uint8_t kind;           /* 24: enum sise_record_kind */
    uint8_t flags;          /* 25: enum sise_record_flag */
    uint8_t venue;          /* 26: id of the venue registry */
    uint8_t market;         /* 27: id of the market registry */
    int16_t utc_offset_min; /* 28: of the exchange's local time at exchange_ns */
    uint16_t connection;    /* 30: number of the connection in its worker */
} sise_record_header;

typedef struct {
    sise_record_header header;
    char symbol[SISE_SYMBOL_BYTES]; /*  32: printable ASCII without " \ ^ |, NUL padded */
    int64_t exchange_ns;            /*  56: exchange time */
    int64_t price;                  /*  64: mantissas; price > 0 */
    int64_t volume;                 /*  72: size of this trade, >= 0 */
    int64_t cum_volume;             /*  80: or SISE_ABSENT, like the three below */
    int64_t ask;                    /*  88 */
    int64_t bid;                    /*  96 */
    int64_t change_rate;            /* 104: percent against the previous close */
    uint8_t price_scale;            /* 112 */
    uint8_t volume_scale;           /* 113 */
    uint8_t cum_volume_scale;       /* 114 */
    uint8_t ask_scale;              /* 115 */
    uint8_t bid_scale;              /* 116 */
    uint8_t change_rate_scale;      /* 117 */
    uint8_t side;                   /* 118: enum sise_side, the aggressor */
    uint8_t number_check;           /* 119: digest of the venue's own number of the trade, 0: it has none */
} sise_trade;                       /* 120 */

typedef struct {
    sise_record_header header;
    char symbol[SISE_SYMBOL_BYTES];        /*  32 */
    int64_t exchange_ns;                   /*  56 */
    int64_t ask_price[SISE_LEVELS];        /*  64: best first; 0 is an absent level, not a price */
    int64_t ask_size[SISE_LEVELS];         /* 144: >= 0 */
    int64_t bid_price[SISE_LEVELS];        /* 224 */
    int64_t bid_size[SISE_LEVELS];         /* 304 */
    uint8_t ask_price_scale[SISE_LEVELS];  /* 384 */
    uint8_t ask_size_scale[SISE_LEVELS];   /* 394 */
    uint8_t bid_price_scale[SISE_LEVELS];  /* 404 */
    uint8_t bid_size_scale[SISE_LEVELS];   /* 414 */
} sise_book;                               /* 424 */

typedef struct {
    sise_record_header header;
    uint32_t frame_bytes;    /* 32: kept behind this struct */
    uint32_t original_bytes; /* 36: as received */
    uint16_t reason;         /* 40: index into native_pipeline.QUARANTINE_REASONS */
    uint16_t detail;         /* 42: the field's position, the width found ..., by reason */
    uint32_t reserved;       /* 44 */
} sise_quarantine;           /* 48, then the frame, NUL padded to a multiple of 8 */

typedef struct {
    sise_record_header header;
    char symbol[SISE_SYMBOL_BYTES]; /* 32 */
    int64_t started_ns;             /* 56: last moment at which the stream was known to be whole */
    int64_t ended_ns;               /* 64: first moment at which it is whole again */
    int64_t missing;                /* 72: shares known to be missing, or SISE_ABSENT */
    uint8_t data_kind;              /* 80: SISE_TRADE or SISE_BOOK */
    uint8_t reason;                 /* 81: index into native_pipeline.GAP_REASONS */
    uint8_t reserved[6];            /* 82 */
} sise_gap;                         /* 88 */

typedef struct {
    sise_record_header header;
    char symbol[SISE_SYMBOL_BYTES]; /* 32 */
    int64_t minute_ns;              /* 56: start of the minute of receipt */
    uint64_t through_seq;           /* 64: counts cover every record up to this seq */
    uint32_t count;                 /* 72: records of data_kind received for symbol in that minute */
    uint8_t data_kind;              /* 76 */
    uint8_t is_last;                /* 77: 1 in the last record of a checkpoint */
    uint8_t reserved[2];            /* 78 */
} sise_ledger;                      /* 80 */

typedef struct {
    sise_record_header header;
    char symbol[SISE_SYMBOL_BYTES]; /*  32 */
    int64_t exchange_ns;            /*  56: exchange time; the receive time where the venue sends none */
    int64_t price;                  /*  64: mantissas, SISE_ABSENT where there is no such value */
    int64_t volume;                 /*  72 */
    int64_t cum_volume;             /*  80 */
    int64_t change_rate;            /*  88: percent against the previous close */
    uint8_t price_scale;            /*  96 */
    uint8_t volume_scale;           /*  97 */
    uint8_t cum_volume_scale;       /*  98 */
    uint8_t change_rate_scale;      /*  99 */
    uint8_t type;                   /* 100: enum sise_event_type */
    uint8_t text_is_cut;            /* 101: 1 if the venue's text was longer than what is kept */
    uint16_t text_bytes;            /* 102: of the venue's own text of the record, kept behind this struct */
} sise_event;                       /* 104, then the text, NUL padded to a multiple of 8 */

typedef struct {
    sise_record_header header;
    uint32_t frame_bytes; /* 32: kept behind this struct, NUL padded to a multiple of 8 */
    uint8_t is_text;      /* 36: 1 for a text message, 0 for a binary one */
    uint8_t is_redundant; /* 37: 1 if another session brought the same streams */
    uint8_t reserved[2];  /* 38 */
} sise_raw;               /* 40, then the message */

static_assert(sizeof(sise_record_header) == 32, "record header");
static_assert(offsetof(sise_record_header, seq) == 8 && offsetof(sise_record_header, kind) == 24, "record header");
static_assert(offsetof(sise_trade, symbol) == 32 && offsetof(sise_trade, price) == 64, "trade");
static_assert(offsetof(sise_trade, price_scale) == 112 && sizeof(sise_trade) == 120, "trade");
static_assert(offsetof(sise_book, ask_price) == 64 && offsetof(sise_book, bid_size) == 304, "book");
static_assert(offsetof(sise_book, ask_price_scale) == 384 && sizeof(sise_book) == 424, "book");
static_assert(offsetof(sise_quarantine, reason) == 40 && sizeof(sise_quarantine) == 48, "quarantine");
static_assert(offsetof(sise_gap, started_ns) == 56 && sizeof(sise_gap) == 88, "gap");
static_assert(offsetof(sise_event, price) == 64 && offsetof(sise_event, text_bytes) == 102, "event");
static_assert(sizeof(sise_event) == 104, "event");
static_assert(offsetof(sise_raw, is_redundant) == 37 && sizeof(sise_raw) == 40, "raw");
static_assert(offsetof(sise_ledger, minute_ns) == 56 && sizeof(sise_ledger) == 80, "ledger");

/* Bytes 24..31 of a header and the last 8 of a trade, each in one store: a checksum that reads a word again while
 * several stores to it are still under way has to wait for them. */
static inline void sise_store_origin(sise_record_header *header, uint8_t kind, uint8_t venue, uint8_t market,
                                     int16_t utc_offset_min, uint16_t connection) {
    uint64_t word = kind | (uint64_t)venue << 16 | (uint64_t)market << 24 |
                    (uint64_t)(uint16_t)utc_offset_min << 32 | (uint64_t)connection << 48;
    memcpy(&header->kind, &word, sizeof word);
}

static inline void sise_store_trade_tail(sise_trade *trade, uint8_t price_scale, uint8_t volume_scale,
                                         uint8_t cum_volume_scale, uint8_t ask_scale, uint8_t bid_scale,
                                         uint8_t change_rate_scale, uint8_t side) {
    uint64_t word = price_scale | (uint64_t)volume_scale << 8 | (uint64_t)cum_volume_scale << 16 |
                    (uint64_t)ask_scale << 24 | (uint64_t)bid_scale << 32 | (uint64_t)change_rate_scale << 40 |
                    (uint64_t)side << 48;
    memcpy(&trade->price_scale, &word, sizeof word);
}

/* ---- ring file: header page, block index page, data ---------------------------------------------- */

typedef struct {
    char name[SISE_NAME_BYTES]; /*  0: consumer's name, NUL padded */
    uint64_t position;          /* 16: next byte to read; consumer stores (release), producer loads (acquire) */
    uint64_t lapped_records;    /* 24: records that this lossy consumer never saw */
    uint32_t mode;              /* 32: enum sise_consumer_mode */
    uint32_t sleeping;          /* 36: 1 while it waits for its eventfd; both sides use a full fence */
    int64_t pid;                /* 40: of the attached process, 0 when detached */
    uint64_t position_check;    /* 48: ~position, stored before it; 0: not kept. Two copies: the lower one is right */
    uint8_t reserved[8];        /* 56 */
} sise_consumer_slot;           /* 64: one cache line */

typedef struct {
    uint64_t position; /* 0: of the first record that starts in the block */
    uint64_t seq;      /* 8: of that record */
} sise_index_entry;    /* 16 */

typedef struct {
    uint64_t magic;          /*   0: stored last (release): the header is complete */
    uint32_t layout_version; /*   8 */
    uint32_t header_bytes;   /*  12: where the data begins */
    uint64_t capacity_bytes; /*  16: of the data area, a power of two */
    uint64_t epoch;          /*  24: microseconds at creation; a new file is a new epoch */
    uint64_t first_seq;      /*  32: seq of the epoch's first record (= epoch: unique across epochs) */
    int32_t ring;            /*  40: number of the ring, the `source` of its rows */
    uint32_t clean;          /*  44: 1 after an orderly close by the producer */
    char boot_id[16];        /*  48: of the machine's boot that the producer ran in */
    int64_t producer_pid;    /*  64 */
    uint64_t resume_seq;     /*  72: after a repair: no new record's seq is below this, 0: there was none */
    uint32_t identity_crc32c; /* 80: of the bytes from 0 to 44, which never change */
    uint8_t reserved0[44];   /*  84 */
    uint64_t head;           /* 128: end of the published records; producer stores (release), consumers load (acquire) */
    uint64_t claimed;        /* 136: the producer may be writing below this; stored before it writes */
    int64_t head_recv_ns;    /* 144: receive time of the newest published record */
    uint64_t head_seq;       /* 152: seq of the record that will begin at head, if head_check says so */
    uint64_t head_check;     /* 160: ~(head ^ head_seq), stored before head */
    uint8_t reserved1[24];   /* 168 */
    uint64_t synced;         /* 192: everything below survives a power loss */
    uint8_t reserved2[56];   /* 200 */
    sise_consumer_slot consumers[SISE_CONSUMERS]; /* 256 */
    uint8_t reserved3[3328];                      /* 768 */
    sise_index_entry index[SISE_INDEX_BLOCKS];    /* 4096 */
} sise_ring_header;                               /* 8192 */

static_assert(sizeof(sise_consumer_slot) == SISE_CACHE_LINE, "consumer slot");
static_assert(offsetof(sise_consumer_slot, position) == 16 && offsetof(sise_consumer_slot, sleeping) == 36, "slot");
static_assert(offsetof(sise_ring_header, epoch) == 24 && offsetof(sise_ring_header, boot_id) == 48, "ring header");
static_assert(offsetof(sise_ring_header, ring) == 40 && offsetof(sise_ring_header, identity_crc32c) == 80, "ring header");
static_assert(offsetof(sise_ring_header, head) == 128 && offsetof(sise_ring_header, synced) == 192, "ring header");
static_assert(offsetof(sise_ring_header, consumers) == 256, "ring header");
static_assert(offsetof(sise_ring_header, index) == 4096, "ring header");
static_assert(sizeof(sise_ring_header) == SISE_RING_HEADER_BYTES, "ring header");

/* ---- counters file: one block per process ---------------------------------------------------------- */

#define SISE_COUNTERS 112
#define SISE_HISTOGRAMS 2
#define SISE_HISTOGRAM_BUCKETS 400 /* 8 per power of two, of microseconds: see counters.pyx */
#define SISE_COUNTERS_BLOCK_BYTES 8192

typedef struct {
    uint64_t magic;                /*   0 */
    uint32_t layout_version;       /*   8 */
    uint32_t starts;               /*  12: how often a process took this block */
    char role[SISE_NAME_BYTES];    /*  16: "worker-0", "writer" ... */
    int64_t pid;                   /*  32 */
    int64_t started_ns;            /*  40 */
    int64_t heartbeat_mono_ns;     /*  48: CLOCK_MONOTONIC, stored by the process, judged by the supervisor */
    uint32_t state;                /*  56: enum of daemon.supervision.process.ProcessState */
    uint32_t reserved0;            /*  60 */
    uint64_t values[SISE_COUNTERS];                                   /*   64 */
    uint64_t histograms[SISE_HISTOGRAMS][SISE_HISTOGRAM_BUCKETS];     /*  960 */
    uint8_t reserved1[832];                                           /* 7360 */
} sise_counters_block;                                                /* 8192 */

static_assert(offsetof(sise_counters_block, heartbeat_mono_ns) == 48, "counters");
static_assert(offsetof(sise_counters_block, values) == 64, "counters");
static_assert(offsetof(sise_counters_block, histograms) == 960, "counters");
static_assert(sizeof(sise_counters_block) == SISE_COUNTERS_BLOCK_BYTES, "counters");

/* ---- atomics: every load or store that another process pairs with goes through these --------------- */

static inline uint64_t sise_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t sise_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void sise_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void sise_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint32_t sise_exchange32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t sise_load32_relaxed(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void sise_store32_relaxed(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
/* Makes the page dirty and changes nothing, whoever else writes there. */
static inline void sise_touch(uint64_t *p) { __atomic_fetch_or(p, 0, __ATOMIC_RELAXED); }
static inline void sise_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void sise_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void sise_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#endif
