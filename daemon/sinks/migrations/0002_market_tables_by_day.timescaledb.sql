-- Hypertables with one chunk a day, compressed by symbol; the policies' intervals are settings and set by schema.py.

SELECT create_hypertable('market_ticks', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
SELECT create_hypertable('market_orderbook', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

CREATE INDEX market_ticks_symbol_time ON market_ticks (symbol, time DESC);
CREATE INDEX market_orderbook_symbol_time ON market_orderbook (symbol, time DESC);

-- Rows lie on disk in the order of receipt: a few kilobytes tell `sise verify --since` where to look.
CREATE INDEX market_ticks_recv_time ON market_ticks USING brin (recv_time);
CREATE INDEX market_orderbook_recv_time ON market_orderbook USING brin (recv_time);

ALTER TABLE market_ticks SET (
    timescaledb.enable_columnstore = true, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'time DESC'
);
ALTER TABLE market_orderbook SET (
    timescaledb.enable_columnstore = true, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'time DESC'
);
