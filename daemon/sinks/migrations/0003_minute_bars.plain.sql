-- One-minute bars, computed when read: filter by symbol and bucket. Shape and order as in the TimescaleDB variant.

CREATE VIEW market_ticks_1m AS
SELECT
    symbol,
    market,
    date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00:00Z') AS bucket,
    (array_agg(price ORDER BY seq))[1] AS open,
    max(price) AS high,
    min(price) AS low,
    (array_agg(price ORDER BY seq DESC))[1] AS close,
    sum(volume) AS volume,
    count(*) AS trades
FROM market_ticks
GROUP BY 1, 2, 3;
