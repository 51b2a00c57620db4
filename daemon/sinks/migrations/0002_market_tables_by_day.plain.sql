-- Without TimescaleDB: declarative partitions, one a UTC day, made ahead by schema.py. A row of any other day goes to
-- the default partition, so that none is ever refused.

ALTER TABLE market_ticks RENAME TO market_ticks_columns;
CREATE TABLE market_ticks (LIKE market_ticks_columns INCLUDING ALL) PARTITION BY RANGE (time);
CREATE TABLE market_ticks_default PARTITION OF market_ticks DEFAULT;
DROP TABLE market_ticks_columns;

ALTER TABLE market_orderbook RENAME TO market_orderbook_columns;
CREATE TABLE market_orderbook (LIKE market_orderbook_columns INCLUDING ALL) PARTITION BY RANGE (time);
CREATE TABLE market_orderbook_default PARTITION OF market_orderbook DEFAULT;
DROP TABLE market_orderbook_columns;

CREATE INDEX market_ticks_symbol_time ON market_ticks (symbol, time DESC);
CREATE INDEX market_orderbook_symbol_time ON market_orderbook (symbol, time DESC);

-- Rows lie on disk in the order of receipt: a few kilobytes tell `sise verify --since` where to look.
CREATE INDEX market_ticks_recv_time ON market_ticks USING brin (recv_time);
CREATE INDEX market_orderbook_recv_time ON market_orderbook USING brin (recv_time);
