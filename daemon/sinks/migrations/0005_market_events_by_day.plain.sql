-- As the other market tables: one partition a UTC day, and one for the rows of any other day.

ALTER TABLE market_events RENAME TO market_events_columns;
CREATE TABLE market_events (LIKE market_events_columns INCLUDING ALL) PARTITION BY RANGE (time);
CREATE TABLE market_events_default PARTITION OF market_events DEFAULT;
DROP TABLE market_events_columns;

CREATE INDEX market_events_symbol_time ON market_events (symbol, time DESC);
CREATE INDEX market_events_recv_time ON market_events USING brin (recv_time);
