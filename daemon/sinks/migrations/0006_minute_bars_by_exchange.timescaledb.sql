-- A trade on NXT is in the stream of NXT and in that of all exchanges: each exchange has its own bars.
--
-- A continuous aggregate cannot get another column, so it is made anew from the rows. The job fills in the last day;
-- CALL refresh_continuous_aggregate('market_ticks_1m', NULL, NULL) does it for all that is older.

DROP MATERIALIZED VIEW market_ticks_1m;

CREATE MATERIALIZED VIEW market_ticks_1m
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    symbol,
    market,
    time_bucket(INTERVAL '1 minute', time) AS bucket,
    first(price, seq) AS open,
    max(price) AS high,
    min(price) AS low,
    last(price, seq) AS close,
    sum(volume) AS volume,
    count(*) AS trades,
    exchange
FROM market_ticks
GROUP BY symbol, market, bucket, exchange
WITH NO DATA;

SELECT add_continuous_aggregate_policy(
    'market_ticks_1m',
    start_offset => INTERVAL '1 day',
    end_offset => INTERVAL '1 minute',
    schedule_interval => INTERVAL '1 minute'
);
