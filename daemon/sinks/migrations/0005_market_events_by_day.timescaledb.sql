-- As the other market tables: a hypertable with one chunk a day, compressed by symbol; schema.py sets the policy.

SELECT create_hypertable('market_events', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

CREATE INDEX market_events_symbol_time ON market_events (symbol, time DESC);
CREATE INDEX market_events_recv_time ON market_events USING brin (recv_time);

ALTER TABLE market_events SET (
    timescaledb.enable_columnstore = true, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'time DESC'
);
