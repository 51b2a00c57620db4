-- A trade on NXT is in the stream of NXT and in that of all exchanges: each exchange has its own bars.

CREATE OR REPLACE VIEW market_ticks_1m AS
SELECT
    symbol,
    market,
    date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00:00Z') AS bucket,
    (array_agg(price ORDER BY seq))[1] AS open,
    max(price) AS high,
    min(price) AS low,
    (array_agg(price ORDER BY seq DESC))[1] AS close,
    sum(volume) AS volume,
    count(*) AS trades,
    exchange
FROM market_ticks
GROUP BY 1, 2, 3, exchange;
