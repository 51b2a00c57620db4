-- One-minute bars, kept up to date by a job and completed from the rows of the last minutes when read.
-- The order inside a bar is the order of receipt: the exchange's clock has a resolution of one second.

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
    count(*) AS trades
FROM market_ticks
GROUP BY symbol, market, bucket
WITH NO DATA;

-- One day back: a batch that waited out a long database outage still reaches its bar.
SELECT add_continuous_aggregate_policy(
    'market_ticks_1m',
    start_offset => INTERVAL '1 day',
    end_offset => INTERVAL '1 minute',
    schedule_interval => INTERVAL '1 minute'
);
