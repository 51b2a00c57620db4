-- The tables. The writer's binary COPY sends values in exactly this order of columns.
--
-- source: number of the ring; seq: position in that ring's stream. Together they are unique for ever.
-- flags: enum sise_record_flag of native_pipeline/layout.h.
-- The CHECKs are the last line of defence behind the parsers; float8 NaN is greater than every number, so the
-- upper bound refuses it too.

CREATE TABLE market_ticks (
    time       timestamptz NOT NULL, -- of the trade, by the exchange
    symbol     text        NOT NULL,
    price      float8      NOT NULL,
    volume     float8      NOT NULL, -- of this trade
    change     float8,               -- percent against the previous close
    market     text        NOT NULL,
    venue      text        NOT NULL,
    side       text,                 -- buy or sell, the aggressor
    ask        float8,
    bid        float8,
    cum_volume float8,               -- of the session, this trade included
    recv_time  timestamptz NOT NULL, -- of the network read that delivered it
    flags      int2        NOT NULL,
    source     int2        NOT NULL,
    seq        int8        NOT NULL,
    CONSTRAINT market_ticks_price CHECK (price > 0 AND price < 'Infinity'),
    CONSTRAINT market_ticks_volume CHECK (volume >= 0 AND volume < 'Infinity'),
    CONSTRAINT market_ticks_symbol CHECK (symbol <> '')
);

CREATE TABLE market_orderbook (
    time timestamptz NOT NULL,
    symbol text NOT NULL,
    ask_price1 float8,       ask_vol1 float8,
    ask_price2 float8,       ask_vol2 float8,
    ask_price3 float8,       ask_vol3 float8,
    ask_price4 float8,       ask_vol4 float8,
    ask_price5 float8,       ask_vol5 float8,
    ask_price6 float8,       ask_vol6 float8,
    ask_price7 float8,       ask_vol7 float8,
    ask_price8 float8,       ask_vol8 float8,
    ask_price9 float8,       ask_vol9 float8,
    ask_price10 float8,      ask_vol10 float8,
    bid_price1 float8,       bid_vol1 float8,
    bid_price2 float8,       bid_vol2 float8,
    bid_price3 float8,       bid_vol3 float8,
    bid_price4 float8,       bid_vol4 float8,
    bid_price5 float8,       bid_vol5 float8,
    bid_price6 float8,       bid_vol6 float8,
    bid_price7 float8,       bid_vol7 float8,
    bid_price8 float8,       bid_vol8 float8,
    bid_price9 float8,       bid_vol9 float8,
    bid_price10 float8,      bid_vol10 float8,
    market text NOT NULL,
    venue text NOT NULL,
    recv_time timestamptz NOT NULL,
    flags int2 NOT NULL,
    source int2 NOT NULL,
    seq int8 NOT NULL,
    CONSTRAINT market_orderbook_symbol CHECK (symbol <> '')
);

-- What could not be parsed: the raw bytes (at most the first part of a long frame) and the reason.
CREATE TABLE quarantine (
    recv_time      timestamptz NOT NULL,
    venue          text        NOT NULL,
    reason         text        NOT NULL,
    detail         int4        NOT NULL, -- position of the field, width found ..., by reason
    frame          bytea       NOT NULL,
    original_bytes int4        NOT NULL, -- length as received
    source         int2        NOT NULL,
    seq            int8        NOT NULL
);
CREATE INDEX quarantine_recv_time ON quarantine (recv_time);

-- Intervals in which a stream is known to have a hole.
CREATE TABLE feed_gaps (
    venue   text        NOT NULL,
    market  text        NOT NULL,
    symbol  text        NOT NULL,
    kind    text        NOT NULL, -- trade or orderbook
    started timestamptz NOT NULL, -- the stream was last known to be whole
    ended   timestamptz NOT NULL, -- and is whole again
    reason  text        NOT NULL,
    missing float8,               -- shares, where the venue's cumulative volume tells
    source  int2        NOT NULL,
    seq     int8        NOT NULL
);
CREATE INDEX feed_gaps_ended ON feed_gaps (ended);

-- What each worker received, counted before the ring: `sise verify` compares the tables with it.
CREATE TABLE ingest_ledger (
    minute      timestamptz NOT NULL, -- of receipt
    market      text        NOT NULL,
    venue       text        NOT NULL,
    symbol      text        NOT NULL,
    kind        text        NOT NULL, -- trade or orderbook
    received    int4        NOT NULL,
    through_seq int8        NOT NULL, -- the counts of this source cover every record up to here
    source      int2        NOT NULL,
    seq         int8        NOT NULL
);
CREATE INDEX ingest_ledger_minute ON ingest_ledger (minute);

CREATE TABLE system_metrics (
    time  timestamptz NOT NULL,
    type  text        NOT NULL,
    value float8      NOT NULL,
    meta  jsonb
);
CREATE INDEX system_metrics_time ON system_metrics (time);

-- How far each ring is stored; advanced in the transaction that stores the rows, so that no crash repeats or skips any.
CREATE TABLE ingest_cursor (
    ring       int2        NOT NULL,
    epoch      int8        NOT NULL, -- of the ring file; a new file is a new epoch
    seq        int8        NOT NULL, -- of the newest record that is stored
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (ring, epoch)
);
