-- What is neither a trade nor an order book, and which exchange of its market a row is of.

-- nxt: the alternative exchange; sor: all exchanges of the market together; NULL: its main exchange.
ALTER TABLE market_ticks ADD COLUMN exchange text;
ALTER TABLE market_orderbook ADD COLUMN exchange text;

-- No CHECKs: every value is optional, and a status may be of the whole market, without a symbol.
CREATE TABLE market_events (
    time       timestamptz NOT NULL, -- by the exchange; of receipt where the venue sends none
    symbol     text        NOT NULL,
    type       text        NOT NULL, -- expected, index, nav, status, program, quote
    price      float8,
    volume     float8,
    cum_volume float8,
    change     float8,               -- percent against the previous close
    market     text        NOT NULL,
    venue      text        NOT NULL,
    exchange   text,                 -- as above
    detail     text        NOT NULL, -- the venue's own text of the record; what is not UTF-8, and NUL, is U+FFFD
    recv_time  timestamptz NOT NULL,
    flags      int2        NOT NULL, -- truncated: detail is cut
    source     int2        NOT NULL,
    seq        int8        NOT NULL
);
