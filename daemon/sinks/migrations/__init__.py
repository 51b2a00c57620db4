"""Numbered SQL files, applied in order by `daemon.sinks.schema`; a file that was released is never changed.

`NNNN_name.sql` applies everywhere, `NNNN_name.timescaledb.sql` only where the tables are hypertables, and
`NNNN_name.plain.sql` only where they are partitioned by PostgreSQL itself.
"""
