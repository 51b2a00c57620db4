# The records, as Cython sees them: field by field the structs of layout.h, where the units and offsets are.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "layout.h" nogil:
    enum:
        SISE_LAYOUT_VERSION
        SISE_SYMBOL_BYTES
        SISE_LEVELS
        SISE_CONSUMERS
        SISE_NAME_BYTES
        SISE_INDEX_BLOCKS
        SISE_RING_HEADER_BYTES
        SISE_MAX_SCALE
        SISE_COUNTERS
        SISE_HISTOGRAMS
        SISE_HISTOGRAM_BUCKETS
        SISE_COUNTERS_BLOCK_BYTES
        SISE_TRADE
        SISE_BOOK
        SISE_QUARANTINE
        SISE_GAP
        SISE_LEDGER
        SISE_EVENT
        SISE_RAW
        SISE_PAD
        SISE_FLAG_CROSSED
        SISE_FLAG_TRUNCATED
        SISE_FLAG_AUCTION
        SISE_FLAG_LATE
        SISE_FLAG_NXT
        SISE_FLAG_SOR
        SISE_FLAG_CLOCK_STEP
        SISE_FLAG_RESUMED
        SISE_EVENT_EXPECTED
        SISE_EVENT_INDEX
        SISE_EVENT_NAV
        SISE_EVENT_STATUS
        SISE_EVENT_PROGRAM
        SISE_EVENT_QUOTE
        SISE_SIDE_NONE
        SISE_SIDE_BUY
        SISE_SIDE_SELL
        SISE_CONSUMER_FREE
        SISE_CONSUMER_GATING
        SISE_CONSUMER_LOSSY
    const int64_t SISE_ABSENT
    const uint64_t SISE_RING_MAGIC
    const uint64_t SISE_COUNTERS_MAGIC

    ctypedef struct sise_record_header:
        uint32_t length
        uint32_t crc32c
        uint64_t seq
        int64_t recv_ns
        uint8_t kind
        uint8_t flags
        uint8_t venue
        uint8_t market
        int16_t utc_offset_min
        uint16_t connection

    ctypedef struct sise_trade:
        sise_record_header header
        char symbol[24]
        int64_t exchange_ns
        int64_t price
        int64_t volume
        int64_t cum_volume
        int64_t ask
        int64_t bid
        int64_t change_rate
        uint8_t price_scale
        uint8_t volume_scale
        uint8_t cum_volume_scale
        uint8_t ask_scale
        uint8_t bid_scale
        uint8_t change_rate_scale
        uint8_t side
        uint8_t number_check

    ctypedef struct sise_book:
        sise_record_header header
        char symbol[24]
        int64_t exchange_ns
        int64_t ask_price[10]
        int64_t ask_size[10]
        int64_t bid_price[10]
        int64_t bid_size[10]
        uint8_t ask_price_scale[10]
        uint8_t ask_size_scale[10]
        uint8_t bid_price_scale[10]
        uint8_t bid_size_scale[10]

    ctypedef struct sise_quarantine:
        sise_record_header header
        uint32_t frame_bytes
        uint32_t original_bytes
        uint16_t reason
        uint16_t detail
        uint32_t reserved

    ctypedef struct sise_gap:
        sise_record_header header
        char symbol[24]
        int64_t started_ns
        int64_t ended_ns
        int64_t missing
        uint8_t data_kind
        uint8_t reason
        uint8_t reserved[6]

    ctypedef struct sise_ledger:
        sise_record_header header
        char symbol[24]
        int64_t minute_ns
        uint64_t through_seq
        uint32_t count
        uint8_t data_kind
        uint8_t is_last
        uint8_t reserved[2]

    ctypedef struct sise_event:
        sise_record_header header
        char symbol[24]
        int64_t exchange_ns
        int64_t price
        int64_t volume
        int64_t cum_volume
        int64_t change_rate
        uint8_t price_scale
        uint8_t volume_scale
        uint8_t cum_volume_scale
        uint8_t change_rate_scale
        uint8_t type
        uint8_t text_is_cut
        uint16_t text_bytes

    ctypedef struct sise_raw:
        sise_record_header header
        uint32_t frame_bytes
        uint8_t is_text
        uint8_t is_redundant
        uint8_t reserved[2]

    ctypedef struct sise_consumer_slot:
        char name[16]
        uint64_t position
        uint64_t lapped_records
        uint32_t mode
        uint32_t sleeping
        int64_t pid
        uint64_t position_check

    ctypedef struct sise_index_entry:
        uint64_t position
        uint64_t seq

    ctypedef struct sise_ring_header:
        uint64_t magic
        uint32_t layout_version
        uint32_t header_bytes
        uint64_t capacity_bytes
        uint64_t epoch
        uint64_t first_seq
        int32_t ring
        uint32_t clean
        char boot_id[16]
        int64_t producer_pid
        uint64_t resume_seq
        uint32_t identity_crc32c
        uint64_t head
        uint64_t claimed
        int64_t head_recv_ns
        uint64_t head_seq
        uint64_t head_check
        uint64_t synced
        sise_consumer_slot consumers[8]
        sise_index_entry index[256]

    ctypedef struct sise_counters_block:
        uint64_t magic
        uint32_t layout_version
        uint32_t starts
        char role[16]
        int64_t pid
        int64_t started_ns
        int64_t heartbeat_mono_ns
        uint32_t state
        uint64_t values[112]
        uint64_t histograms[2][400]

    void sise_store_origin(sise_record_header* header, uint8_t kind, uint8_t venue, uint8_t market,
                           int16_t utc_offset_min, uint16_t connection)
    void sise_store_trade_tail(sise_trade* trade, uint8_t price_scale, uint8_t volume_scale, uint8_t cum_volume_scale,
                               uint8_t ask_scale, uint8_t bid_scale, uint8_t change_rate_scale, uint8_t side)
    uint64_t sise_load_acquire(const uint64_t *p)
    uint64_t sise_load_relaxed(const uint64_t *p)
    void sise_store_release(uint64_t *p, uint64_t v)
    void sise_store_relaxed(uint64_t *p, uint64_t v)
    uint32_t sise_exchange32(uint32_t *p, uint32_t v)
    uint32_t sise_load32_relaxed(const uint32_t *p)
    void sise_store32_relaxed(uint32_t *p, uint32_t v)
    void sise_touch(uint64_t *p)
    void sise_fence_acquire()
    void sise_fence_release()
    void sise_fence_full()


# Why a frame, or one record of it, was quarantined. The texts are native_pipeline.QUARANTINE_REASONS, same order.
cdef enum QuarantineReason:
    REASON_NONE = 0
    REASON_EMPTY_FRAME
    REASON_UNKNOWN_FRAME        # neither data nor control: the first byte says
    REASON_MALFORMED_HEADER     # flag|TR|count|payload is not what was sent
    REASON_UNKNOWN_TR           # detail: 0
    REASON_BAD_COUNT            # detail: count found, 0 if not a number
    REASON_BAD_WIDTH            # detail: fields found
    REASON_ENCRYPTED            # no key for it
    REASON_BAD_SYMBOL           # detail of this and all below: position of the field
    REASON_BAD_TIME
    REASON_BAD_DATE
    REASON_BAD_PRICE
    REASON_BAD_SIZE
    REASON_BAD_NUMBER
    REASON_BAD_CONTROL          # control frame that is not the JSON object expected
    REASON_TOO_LONG             # message longer than the reassembly bound; detail: 0
    REASON_UNEXPECTED_BINARY
    REASON_END
