"""`sise replay`: what was received goes through the workers' own parser once more, and into the tables where it lacks.

Each worker of the capture has a ring of its own again, in a temporary directory, so that what arrived twice is known
again and everything else is kept, exactly as it was while it was received. The time of receipt is the recorded one.
Nothing is published. The daemon may run meanwhile; of what it may not have stored yet nothing is replayed.
"""

import datetime
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import psycopg

from daemon.config import Config
from daemon.decode import KOREA
from daemon.errors import ConfigError, InvariantBroken, Refused, first_line
from daemon.failpoints import reach
from daemon.ingest.venues import VENUE_CLASSES, venue_named
from daemon.recording.capture import HOUR_NS, Damage, decode_line, file_name, parse_name, read_lines
from daemon.recording.replay_store import LOWEST_SOURCE, SLACK, Connection, Staging, Stored, require_alone
from daemon.sinks import column_types, schema
from daemon.sinks.count_queries import read_checkpoints
from daemon.sinks.in_flight import read_in_flight, unsettled_from
from daemon.sinks.isolation import new_batch
from daemon.sinks.reparse import layouts_of
from native_pipeline.copy_encoder import CopyBatch
from native_pipeline.frame_parser import FrameParser
from native_pipeline.ring_creation import GATING, create_ring
from native_pipeline.ring_reader import GatingReader
from native_pipeline.ring_writer import RingWriter

APPLICATION_NAME = "sise replay"
ZSTD_SUFFIX = ".zst"
RING_BYTES = 64 << 20  # a message of 8 MiB at least fits with all its records
BATCH_RECORDS = 20_000
WARM_UP_NS = 600 * 10**9  # of the hour before: what a venue sends again is younger than that
PACED_COMMIT_S = 1.0
MINUTE_NS = 60 * 10**9
RING_FULL = -2  # native_pipeline/frame_parser.pxd
MAX_WORKERS = 64  # of the setting `workers`
DAY = datetime.timedelta(days=1)


class Message(NamedTuple):
    """One message to replay."""

    recv_ns: int
    worker: int
    connection: int
    is_text: bool
    is_redundant: bool
    payload: bytes


@dataclass(slots=True)
class FileReport:
    """What became of one file."""

    file: str
    frames: int = 0
    records: int = 0  # rows and quarantined frames that came out of them
    left_out: int = 0  # messages too young: the daemon may not have stored them yet
    unreadable: int = 0  # lines that are none
    control: int = 0  # messages that hold no data
    damage: Damage = field(default_factory=Damage)
    stored: Stored = field(default_factory=Stored)

    @property
    def is_whole(self) -> bool:
        """Whether everything that the file held was replayed."""
        return not (self.left_out or self.unreadable or self.damage.blocks)

    def as_text(self) -> str:
        """Return one line."""
        inserted = dict(self.stored.inserted)
        quarantined = inserted.pop("quarantine", 0)
        text = (
            f"{self.file}: {self.frames:,} messages, {self.records:,} records, {sum(inserted.values()):,} rows"
            f" inserted, {sum(self.stored.known.values()):,} were there already, {quarantined:,} quarantined"
        )
        for number, what in (
            (self.left_out, "messages left out: not all of their minute may be stored yet"),
            (self.unreadable, "unreadable lines"),
            (self.damage.blocks, "damaged blocks"),
        ):
            text += f", {number:,} {what}" if number else ""
        return text + (", end torn" if self.damage.is_torn else "")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast. speed: times the recorded speed; None: as fast as it goes."""

    speed: float | None = None
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def parse_speed(text: str) -> Pace:
    """Return what `recorded`, `max` or a positive number means. Raises ConfigError for everything else."""
    if text in ("max", "recorded"):
        return Pace(1.0 if text == "recorded" else None)
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ConfigError(f"--speed: expected recorded, max or a positive number, found {text!r}")
    return Pace(speed)


class Pipeline:
    """Parsers and rings of the workers of one venue. A context manager."""

    def __init__(self, config: Config, venue: str) -> None:
        if venue not in VENUE_CLASSES:
            raise ConfigError(f"venue: {venue!r} cannot be replayed; supported: {', '.join(VENUE_CLASSES)}")
        self._venue = venue_named(venue)
        if layouts := layouts_of(venue, config.accounts):
            self._venue.use_layouts(layouts)
        self._venue.on_session_start()  # messages are read as in a session
        self._parsers: dict[tuple[int, int], FrameParser] = {}
        self._rings: dict[int, tuple[RingWriter, GatingReader]] = {}
        self._stack = ExitStack()
        self._batch = new_batch()
        self.waiting = 0  # records that nobody has taken yet

    def __enter__(self) -> Self:
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sise-replay-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def parse(self, message: Message) -> int:
        """Parse *message*; return how many records it gave, -1 for a control message."""
        if message.worker not in self._rings:
            self._open_ring(message.worker)
        ring, _ = self._rings[message.worker]
        key = message.worker, message.connection
        if key not in self._parsers:
            self._parsers[key] = self._venue.make_parser(self._venue.decode_market, message.connection)
        parser = self._parsers[key]
        parser.is_redundant = message.is_redundant
        records = parser.parse(ring, message.payload, message.recv_ns, is_text=message.is_text)
        if records == RING_FULL:
            return records
        self.waiting += max(0, records)
        return records

    def drain(self, take: Callable[[CopyBatch], None] | None) -> int:
        """Hand batches of everything parsed to *take*, or throw it away; return the number of records."""
        total = 0
        for _, reader in self._rings.values():
            while self._batch.append_from(reader, BATCH_RECORDS):
                if take is not None:
                    take(self._batch)
                total += self._batch.records
                self._batch.clear()
                reader.commit()
        self.waiting = 0
        return total

    def _open_ring(self, worker: int) -> None:
        if not 0 <= worker < MAX_WORKERS:
            raise Refused(f"worker {worker}: a capture has workers 0 to {MAX_WORKERS - 1}")
        path = self._directory / f"worker-{worker}.ring"
        create_ring(path, ring=LOWEST_SOURCE + worker, capacity_bytes=RING_BYTES, consumers=(("replay", GATING),))
        ring = self._stack.enter_context(closing(RingWriter(path)))
        self._rings[worker] = ring, self._stack.enter_context(closing(GatingReader(path, "replay")))


class Replay:
    """Replays files, in the order given. Pass those of one venue in order of time: what repeats is then recognised."""

    def __init__(
        self,
        config: Config,
        connection: Connection,
        *,
        pace: Pace = Pace(),
        is_dry_run: bool = False,
    ) -> None:
        self._config = config
        self._connection = connection
        self._pace = pace
        self._is_dry_run = is_dry_run
        self._pipelines: dict[str, Pipeline] = {}
        self._warm: set[str] = set()
        self._stack = ExitStack()
        self._began: tuple[float, int] | None = None  # monotonic time, and receipt of the message that came first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, path: Path, *, venue: str | None = None, date: datetime.date | None = None) -> FileReport:
        """Replay one file. venue and date: of a file that is no capture: text messages, one a line.

        Raises Refused: the database refuses the rows; ConfigError: not known whose messages these are.
        """
        report = FileReport(path.name)
        if path.name.endswith(ZSTD_SUFFIX):
            named = parse_name(path.name)
            venue = venue or (named[0] if named else None) or _venue_of(path)
            if named is not None and venue not in self._pipelines:
                self._warm_up(path, venue, named[1])
            messages, slack = captured(path, report), SLACK
        else:
            if venue is None or date is None:
                raise ConfigError(f"{path}: --venue and --date: needed for a file that is no capture (.jsonl.zst)")
            messages, slack = recorded(path, date), DAY
        try:
            self._store(self._pipeline(venue), messages, report, venue, slack)
        except (psycopg.errors.DataError, psycopg.errors.IntegrityError) as exc:
            raise Refused(f"{path}: nothing more of it was stored: the database refuses: {first_line(exc)}") from exc
        return report

    def _pipeline(self, venue: str) -> Pipeline:
        if venue not in self._pipelines:
            self._pipelines[venue] = self._stack.enter_context(Pipeline(self._config, venue))
        return self._pipelines[venue]

    def _warm_up(self, path: Path, venue: str, hour_ns: int) -> None:
        """Parse the end of the hour before, without storing it: what was sent again must be recognised."""
        before = path.with_name(file_name(venue, hour_ns - HOUR_NS))
        if not before.exists():
            return
        pipeline = self._pipeline(venue)
        for message in captured(before, FileReport(before.name)):
            if message.recv_ns >= hour_ns - WARM_UP_NS:
                if pipeline.parse(message) == RING_FULL:
                    pipeline.drain(None)
                    pipeline.parse(message)
                if pipeline.waiting >= BATCH_RECORDS:
                    pipeline.drain(None)
        pipeline.drain(None)

    def _store(
        self,
        pipeline: Pipeline,
        messages: Iterable[Message],
        report: FileReport,
        venue: str,
        slack: datetime.timedelta,
    ) -> None:
        """One transaction for the file; paced, one a second."""
        unsettled_ns = self._unsettled_ns()
        waiting = iter(messages)
        is_over = False
        while not is_over:
            frames = report.frames
            with Staging(self._connection, venue=venue, is_dry_run=self._is_dry_run) as staging:
                is_over = self._stage(pipeline, waiting, report, staging, unsettled_ns)
                report.records += pipeline.drain(staging.copy)
                reach("replay.before_commit")
                stored = staging.store(file=report.file, frames=report.frames - frames, slack=slack)
            reach("replay.after_commit")
            report.stored.add(stored)

    def _stage(
        self, pipeline: Pipeline, messages: Iterator[Message], report: FileReport, staging: Staging, unsettled_ns: int
    ) -> bool:
        """Parse messages until they end, or until it is time to commit; whether they ended."""
        due = self._pace.monotonic() + PACED_COMMIT_S
        for message in messages:
            if message.recv_ns >= unsettled_ns:
                report.left_out += 1
                continue
            self._wait_for(message.recv_ns)
            report.frames += 1
            result = pipeline.parse(message)
            if result == RING_FULL:
                report.records += pipeline.drain(staging.copy)
                result = pipeline.parse(message)
            if result == RING_FULL:
                raise InvariantBroken(f"a message of {len(message.payload)} bytes does not fit an empty ring")
            report.control += result < 0
            if pipeline.waiting >= BATCH_RECORDS:
                report.records += pipeline.drain(staging.copy)
            if self._pace.speed is not None and self._pace.monotonic() >= due:
                return False
        return True

    def _wait_for(self, recv_ns: int) -> None:
        if self._pace.speed is None:
            return
        now = self._pace.monotonic()
        if self._began is None:
            self._began = now, recv_ns
        delay_s = self._began[0] + (recv_ns - self._began[1]) / 1e9 / self._pace.speed - now
        if delay_s > 0:
            self._pace.sleep(delay_s)

    def _unsettled_ns(self) -> int:
        """Return the receipt from which on the database may not know everything yet."""
        start = datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)
        # first what waits, then the rows: what was stored in between only makes the answer too careful
        found = read_in_flight(Path(self._config.data_dir))
        minute = unsettled_from(read_checkpoints(self._connection, start), found)
        return (1 << 63) - 1 if minute is None else minute * MINUTE_NS


def captured(path: Path, report: FileReport) -> Iterator[Message]:
    """Yield the messages of a capture; what is damaged is noted in *report*. Raises OSError, CaptureDamaged."""
    for line in read_lines(path, report.damage):
        try:
            frame = decode_line(line)
            payload = frame.payload()
        except ValueError:
            report.unreadable += 1
            continue
        yield Message(frame.recv_ns, frame.worker, frame.connection, not frame.binary, frame.redundant, payload)


def recorded(path: Path, date: datetime.date) -> Iterator[Message]:
    """Yield the text messages of *path*, one a line, as received at noon of *date* in Korea."""
    noon = datetime.datetime.combine(date, datetime.time(12), tzinfo=KOREA)
    recv_ns = int(noon.timestamp()) * 10**9
    with path.open("rb") as file:
        for line in file:
            yield Message(recv_ns, 0, 0, True, False, line.removesuffix(b"\n").removesuffix(b"\r"))


def _venue_of(path: Path) -> str:
    for line in read_lines(path, Damage()):
        try:
            return decode_line(line).venue
        except ValueError:
            break
    raise ConfigError(f"{path}: holds no line of a capture")


def replay_files(
    config: Config,
    paths: Iterable[Path],
    *,
    pace: Pace,
    venue: str | None,
    date: datetime.date | None,
    is_dry_run: bool,
) -> Iterator[FileReport]:
    """Replay *paths* into the configured database, and yield what became of each.

    Raises psycopg.Error if the database does not answer, Refused if another replay runs or the rows are refused.
    """
    address = config.database.dsn
    with psycopg.connect(
        address,
        autocommit=True,
        application_name=APPLICATION_NAME,
        connect_timeout=config.database.connect_timeout_s,
        client_encoding="UTF8",
        prepare_threshold=None,  # a pool in front of the server may give each transaction to another session
    ) as connection:
        schema.migrate(
            connection,
            retention_days=config.database.retention_days,
            columnstore_after_days=config.database.columnstore_after_days,
        )
        with connection.transaction():
            require_alone(connection)
        column_types.check(connection)
        with Replay(config, connection, pace=pace, is_dry_run=is_dry_run) as replay:
            for path in paths:
                yield replay.run(path, venue=venue, date=date)
