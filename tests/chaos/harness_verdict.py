"""What the tables say against the journal of the venue: lost, doubled, unknown, altered; by SQL, with values.

Two rules beyond the counts. Records of one socket arrive in order: what is missing of it must be its end (what was on
its way when it closed), unless a file of the daemon was destroyed. And whatever is missing or was never sent to us must
lie within a row of `feed_gaps` for its symbol and kind.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import psycopg

# The bounds of a gap are times of receipt, those of the journal of sending: a record may wait so long in between.
TRANSIT = "1 s"

BOOK_VALUES = " AND ".join(
    f"t.ask_price{k} = 50000 + (j.number::int % 50) * 10 + {10 * k}"
    f" AND t.bid_price{k} = 50000 + (j.number::int % 50) * 10 - {10 * (k - 1)}"
    f" AND t.ask_vol{k} = " + ("j.number" if k == 1 else f"{100 * k} + j.number::int % 97") + ""
    f" AND t.bid_vol{k} = {200 * k} + j.number::int % 89"
    for k in range(1, 11)
)

PREPARE = """
DROP SCHEMA IF EXISTS oracle CASCADE;
CREATE SCHEMA oracle;
CREATE TABLE oracle.sent (
    ordinal int8, kind text, socket int8, symbol text, number float8, size float8, price float8, side text,
    at timestamptz
);
CREATE TABLE oracle.socket (socket int8, key text, opened timestamptz, shut timestamptz);
CREATE TABLE oracle.quiet (at timestamptz);
CREATE TABLE oracle.ack (symbol text, kind text, at timestamptz);
"""

MATCH = f"""
CREATE INDEX ON oracle.sent (kind, symbol, number);
ANALYZE oracle.sent;
CREATE TABLE oracle.found AS
    SELECT j.ordinal, count(t.seq) AS copies,
           bool_and(t.price = j.price AND t.volume = j.size AND t.side = j.side AND t.ask = j.price + 10
               AND t.bid = j.price - 10 AND t.venue = 'kis' AND t.market = 'kr' AND t.change = 1.25
               AND abs(extract(epoch FROM t.time - j.at)) < 2 AND t.recv_time > j.at - interval '1 ms') AS exact
    FROM oracle.sent j LEFT JOIN market_ticks t ON t.symbol = j.symbol AND t.cum_volume = j.number
    WHERE j.kind = 'trade' GROUP BY 1
    UNION ALL
    SELECT j.ordinal, count(t.seq),
           bool_and({BOOK_VALUES} AND abs(extract(epoch FROM t.time - j.at)) < 2
               AND t.recv_time > j.at - interval '1 ms')
    FROM oracle.sent j LEFT JOIN market_orderbook t ON t.symbol = j.symbol AND t.ask_vol1 = j.number
    WHERE j.kind = 'orderbook' GROUP BY 1
    UNION ALL
    SELECT j.ordinal, count(q.seq), true
    FROM oracle.sent j LEFT JOIN quarantine q
        ON strpos(encode(q.frame, 'escape'), 'bad-' || j.number::int || '-bad') > 0
    WHERE j.kind = 'bad' GROUP BY 1;
CREATE UNIQUE INDEX ON oracle.found (ordinal);
CREATE VIEW oracle.missing AS
    SELECT j.*, EXISTS (
        SELECT FROM feed_gaps g WHERE g.symbol = j.symbol AND g.kind = j.kind
            AND j.at BETWEEN g.started - interval '{TRANSIT}' AND g.ended
    ) AS told
    FROM oracle.sent j JOIN oracle.found f USING (ordinal) WHERE f.copies = 0 AND j.kind <> 'bad';
CREATE VIEW oracle.newest AS
    SELECT j.socket, max(j.ordinal) AS ordinal FROM oracle.sent j JOIN oracle.found f USING (ordinal)
    WHERE f.copies > 0 AND j.socket > 0 GROUP BY 1;
"""

QUESTIONS = {
    "sent": "SELECT count(*) FROM oracle.sent WHERE socket > 0",
    "stored": "SELECT (SELECT count(*) FROM market_ticks) + (SELECT count(*) FROM market_orderbook)",
    "lost": "SELECT count(*) FROM oracle.missing WHERE socket > 0 AND NOT told",
    "doubled": "SELECT coalesce(sum(copies - 1), 0) FROM oracle.found WHERE copies > 1",
    "altered": "SELECT count(*) FROM oracle.found WHERE copies > 0 AND NOT exact",
    "unknown": """SELECT
        (SELECT count(*) FROM market_ticks t WHERE NOT EXISTS (SELECT FROM oracle.sent j
            WHERE j.kind = 'trade' AND j.symbol = t.symbol AND j.number = t.cum_volume AND j.socket > 0))
        + (SELECT count(*) FROM market_orderbook t WHERE NOT EXISTS (SELECT FROM oracle.sent j
            WHERE j.kind = 'orderbook' AND j.symbol = t.symbol AND j.number = t.ask_vol1 AND j.socket > 0))
        + (SELECT count(*) FROM quarantine q WHERE encode(q.frame, 'escape') !~ 'bad-[0-9]+-bad')""",
    "torn_out": """SELECT count(*) FROM oracle.sent j JOIN oracle.found f USING (ordinal)
        JOIN oracle.newest n ON n.socket = j.socket WHERE f.copies = 0 AND j.ordinal < n.ordinal""",
    "missing": "SELECT count(*) FROM oracle.missing WHERE socket > 0",
    "lost_on_open_sockets": """SELECT count(*) FROM oracle.missing m JOIN oracle.socket s USING (socket)
        WHERE s.shut IS NULL OR s.shut > (SELECT max(at) FROM oracle.quiet)""",
    "untold_while_away": """SELECT count(*) FROM oracle.missing m WHERE socket = 0 AND NOT told
        AND EXISTS (SELECT FROM oracle.ack a WHERE a.symbol = m.symbol AND a.kind = m.kind AND a.at < m.at)""",
    "needless_gaps": f"""SELECT count(*) FROM feed_gaps g WHERE NOT EXISTS (SELECT FROM oracle.missing m
        WHERE m.symbol = g.symbol AND m.kind = g.kind AND m.at BETWEEN g.started - interval '{TRANSIT}' AND g.ended)""",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Numbers of records. *torn_out*: missing from the middle of what one socket brought; *needless_gaps*: rows."""

    sent: int
    stored: int
    lost: int
    doubled: int
    altered: int
    unknown: int
    torn_out: int
    missing: int
    lost_on_open_sockets: int
    untold_while_away: int
    needless_gaps: int

    def violations(self, *, files_destroyed: bool) -> list[str]:
        """What must be zero and is not; with *files_destroyed* the records in them may be missing, if that is told."""
        must = ["lost", "doubled", "altered", "unknown", "untold_while_away"]
        if not files_destroyed:
            must += ["torn_out", "lost_on_open_sockets"]
        return [f"{name} = {getattr(self, name)}" for name in must if getattr(self, name)]


def judge(dsn: str, journal: Path) -> Verdict:
    """Load the journal beside the tables and compare; the tables of the comparison stay, for whoever investigates."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute(PREPARE)
        _load(connection, journal)
        connection.execute(MATCH)
        answers = {}
        for name, question in QUESTIONS.items():
            row = connection.execute(question).fetchone()
            assert row is not None
            answers[name] = int(row[0])
        assert set(answers) == {one.name for one in fields(Verdict)}
        return Verdict(**answers)


def _load(connection: psycopg.Connection, journal: Path) -> None:
    sockets: dict[str, list[str | float | None]] = {}
    acks, quiet = [], []
    with connection.cursor() as cursor:
        connection.execute(
            "CREATE TEMP TABLE raw (ordinal int8, kind text, socket int8, symbol text, number float8, size float8,"
            " price float8, side text, at float8)"
        )
        with cursor.copy("COPY raw FROM STDIN") as copy:
            for ordinal, line in enumerate(journal.read_text(encoding="ascii").splitlines()):
                match line.split():
                    case ["trade", socket, symbol, cum, size, price, side, at]:
                        side = "buy" if side == "1" else "sell"
                        copy.write_row((ordinal, "trade", socket, symbol, cum, size, price, side, int(at) / 1e9))
                    case ["book", socket, symbol, number, at]:
                        copy.write_row((ordinal, "orderbook", socket, symbol, number, 0, 0, "", int(at) / 1e9))
                    case ["bad", socket, number, at]:
                        copy.write_row((ordinal, "bad", socket, "", number, 0, 0, "", int(at) / 1e9))
                    case ["open", socket, key, at]:
                        sockets[socket] = [key, int(at) / 1e9, None]
                    case ["shut", socket, _, at]:
                        sockets[socket][2] = int(at) / 1e9
                    case ["ack", symbol, kind, _, at]:
                        acks.append((symbol, "orderbook" if kind == "book" else "trade", int(at) / 1e9))
                    case ["quiet", at]:
                        quiet.append((int(at) / 1e9,))
                    case _:
                        raise ValueError(f"line {ordinal} of the journal: {line}")
        connection.execute(
            "INSERT INTO oracle.sent SELECT ordinal, kind, socket, symbol, number, size, price, side, to_timestamp(at)"
            " FROM raw"
        )
        cursor.executemany(
            "INSERT INTO oracle.socket VALUES (%s, %s, to_timestamp(%s), to_timestamp(%s))",
            [(socket, *values) for socket, values in sockets.items()],
        )
        cursor.executemany("INSERT INTO oracle.quiet VALUES (to_timestamp(%s))", quiet)
        cursor.executemany("INSERT INTO oracle.ack VALUES (%s, %s, to_timestamp(%s))", acks)
