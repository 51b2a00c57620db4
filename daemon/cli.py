"""Every command: parse, build, call.

Exit codes: 0 fine, 1 a check failed or something was lost, 2 usage or bad config.
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from daemon import config as settings
from daemon.errors import ConfigError, IngestError, first_line

EXIT_FAILED = 1
EXIT_USAGE = 2
UNDEFINED_TABLE = "42P01"  # SQLSTATE
# A server that is away is no bug of these.
ASKS_SERVERS = frozenset({"check", "migrate", "quarantine", "replay", "verify", "recover"})

config_option = click.option(
    "-c", "--config", "config_path", required=True, metavar="FILE", help="Settings; see `sise config init`."
)


class _Group(click.Group):
    """Turns the errors that Sise raises on purpose into one line on stderr and an exit code; loads `sim` when asked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "sim"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "sim":  # the daemon itself must not carry the simulator's servers in its memory
            from daemon.simulator.command import sim_command  # noqa: PLC0415

            return sim_command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as exc:
            _fail(str(exc), EXIT_USAGE)
        except IngestError as exc:
            _fail(str(exc), EXIT_FAILED)
        except Exception as exc:
            server = _server_of(exc) if ctx.invoked_subcommand in ASKS_SERVERS else None
            if server is None:
                raise
            hint = "; not migrated yet: `sise migrate`, or start the daemon" if _lacks_tables(exc) else ""
            _fail(f"{server}: {first_line(exc)}{hint}", EXIT_FAILED)


def _server_of(exc: Exception) -> str | None:
    """Return whose fault *exc* is, None: ours. The drivers are loaded by now, if they were used."""
    if isinstance(exc, OSError):
        return "system"
    return {"psycopg": "database.dsn", "redis": "redis.url"}.get(type(exc).__module__.partition(".")[0])


def _lacks_tables(exc: Exception) -> bool:
    return getattr(exc, "sqlstate", None) == UNDEFINED_TABLE


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"sise: {message}", err=True)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sise", prog_name="sise")
def main() -> None:
    """Sise: market data from broker WebSockets to TimescaleDB and Redis, exactly once."""


@main.command()
@config_option
def run(config_path: str) -> None:
    """Run the daemon in the foreground until SIGTERM or SIGINT."""
    from daemon.topology import run_daemon  # noqa: PLC0415 - each command loads only what it uses

    sys.exit(run_daemon(config_path))


@main.command(short_help="Everything on this machine, and a proof of it.")
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1), help="How long to offer data.")
@click.option("--rate", default=20_000, show_default=True, type=click.IntRange(1), help="Records a second in total.")
@click.option("--symbols", default=100, show_default=True, type=click.IntRange(1), help="Korean; others get some too.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@click.option("--seed", default=1, show_default=True, help="Of the synthetic market.")
@click.option("--keep", metavar="DIRECTORY", help="Keep servers' data, rings, journal and logs there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line of stdout.")
def demo(**fields: Any) -> None:  # Any: click passes what the options above declare
    """Simulator, daemon, PostgreSQL and Redis on this machine; exit 0 only if nothing was lost or duplicated."""
    from daemon.demo import DemoOptions, run_demo  # noqa: PLC0415

    sys.exit(run_demo(DemoOptions(**fields)))


@main.command(short_help="Frames to JSON, one object a record.")
@click.option("--venue", required=True, help="Whose frames these are: a name of accounts.venue.")
@click.option("--date", type=click.DateTime(["%Y-%m-%d"]), help="Day of receipt in Korea [default: today].")
@click.argument("file", type=click.File("rb"), default="-")
def decode(venue: str, date: datetime.datetime | None, file: Any) -> None:
    """Frames, one a line, from FILE or stdin -> one JSON object per record on stdout."""
    from daemon import decode as decoding  # noqa: PLC0415

    day = decoding.today_in_korea() if date is None else date.date()
    decoding.write_json_lines(decoding.decode_frames(venue, day, file), sys.stdout.buffer)


@main.command()
@config_option
def migrate(config_path: str) -> None:
    """Apply the database migrations that are missing."""
    from daemon.sinks import schema  # noqa: PLC0415

    config = settings.load(config_path)
    applied = schema.migrate(
        config.database.dsn,
        retention_days=config.database.retention_days,
        columnstore_after_days=config.database.columnstore_after_days,
    )
    click.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do: the schema is up to date")


@main.command(short_help="Received = stored = published? Per minute.")
@config_option
@click.option("--since", metavar="TIME", help="ISO 8601 time with offset; default: everything.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def verify(config_path: str, since: str | None, as_json: bool) -> None:
    """Compare received, published and stored, per symbol and minute; exit 1 on any difference."""
    from daemon.sinks.verify import verify as compare  # noqa: PLC0415

    report = compare(settings.load(config_path), _parse_time(since))
    click.echo(json.dumps(report.as_dict()) if as_json else report.as_text())
    sys.exit(0 if report.is_complete else EXIT_FAILED)


def _parse_time(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an ISO 8601 time", param_hint="--since") from None
    return moment if moment.tzinfo else moment.astimezone()


@main.command(short_help="Store now what was spilled; exit 1 if not all.")
@config_option
def recover(config_path: str) -> None:
    """Store what was spilled while the database was away, now; exit 1 if something remains."""
    from daemon import log  # noqa: PLC0415
    from daemon.sinks.recover_now import recover as store_all  # noqa: PLC0415

    log.configure("warning")
    left = store_all(settings.load(config_path), tell=click.echo)
    sys.exit(EXIT_FAILED if left else 0)


@main.command(short_help="State of the daemon; exit 1 if not healthy.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def status(config_path: str, as_json: bool) -> None:
    """State of the running daemon; exit 1 if it is degraded or does not run."""
    from daemon.watching.top import print_status  # noqa: PLC0415

    sys.exit(0 if print_status(settings.load(config_path), sys.stdout, as_json=as_json) else EXIT_FAILED)


@main.command()
@config_option
def top(config_path: str) -> None:
    """State of the running daemon, each second, until q or Ctrl-C."""
    from daemon.watching.top import run_top  # noqa: PLC0415

    try:
        run_top(settings.load(config_path), sys.stdout, sys.stdin)
    except KeyboardInterrupt:
        sys.exit(0)


@main.command(short_help="Preflight of settings, plan and servers.")
@config_option
def check(config_path: str) -> None:
    """Preflight: settings, plan, credentials, venue, database, Redis, disk; exit 1 with the reason."""
    from daemon.planning import preview  # noqa: PLC0415
    from daemon.preflight import plan_lines, run_checks  # noqa: PLC0415

    config = settings.load(config_path)
    plan = preview(config, source=config_path)
    click.echo("\n".join(plan_lines(config, plan)))
    failed = []
    for name, is_fine, note in run_checks(config, plan):
        click.echo(f"{'ok  ' if is_fine else 'FAIL'} {name}{': ' + note if note else ''}")
        failed += [] if is_fine else [f"{name}: {note}"]
    if failed:
        _fail("check failed: " + "; ".join(failed), EXIT_FAILED)


@main.command(short_help="Captured messages into the tables once more.")
@config_option
@click.option("--speed", default="max", show_default=True, help="recorded, max, or a number: times the recorded speed.")
@click.option("--venue", help="Whose messages these are; a capture (.jsonl.zst) says so itself.")
@click.option("--date", type=click.DateTime(["%Y-%m-%d"]), help="Of a file of text: day of receipt in Korea.")
@click.option("--dry-run", is_flag=True, help="Do everything but keep nothing of it.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
def replay(
    config_path: str,
    speed: str,
    venue: str | None,
    date: datetime.datetime | None,
    dry_run: bool,
    files: tuple[str, ...],
) -> None:
    """Captured or recorded messages through the pipeline, into the tables where they lack; exit 1 if not all were read.

    Files of one venue in order of time. Messages of a file of text are one a line.
    """
    from daemon.recording.replay import parse_speed, replay_files  # noqa: PLC0415

    config, pace = settings.load(config_path), parse_speed(speed)
    day = None if date is None else date.date()
    is_whole = True
    for report in replay_files(config, map(Path, files), pace=pace, venue=venue, date=day, is_dry_run=dry_run):
        click.echo(report.as_text())
        is_whole = is_whole and report.is_whole
    sys.exit(0 if is_whole else EXIT_FAILED)


@main.group(name="quarantine")
def quarantine_group() -> None:
    """What could not be stored, kept raw: list, show, replay."""


@quarantine_group.command(name="list", short_help="Refused frames and rows, newest first.")
@config_option
@click.option("--venue", help="Only of this venue.")
@click.option("--since", metavar="TIME", help="ISO 8601 time with offset; default: everything.")
@click.option("--reason", metavar="TEXT", help="Only where the reason contains this.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@click.option("--replayed", "with_replayed", is_flag=True, help="Also what has been replayed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_quarantine(config_path: str, since: str | None, as_json: bool, **filters: Any) -> None:
    """Frames that no parser understood, and rows that the database refused."""
    from daemon.sinks import quarantine  # noqa: PLC0415

    database = settings.load(config_path).database
    with quarantine.connect(database.dsn, timeout_s=database.connect_timeout_s) as connection:
        for entry in quarantine.list_entries(connection, since=_parse_time(since), **filters):
            click.echo(json.dumps(entry.as_dict()) if as_json else entry.as_line())


@quarantine_group.command(name="show")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("entry_id", metavar="ID")
def show_quarantine(config_path: str, as_json: bool, entry_id: str) -> None:
    """Everything about one entry, its bytes as text or in hexadecimal."""
    from daemon.sinks import quarantine  # noqa: PLC0415

    database = settings.load(config_path).database
    with quarantine.connect(database.dsn, timeout_s=database.connect_timeout_s) as connection:
        entry = quarantine.find_entry(connection, quarantine.parse_id(entry_id))
    click.echo(json.dumps(entry.as_dict()) if as_json else entry.as_text())


@quarantine_group.command(
    name="replay",
    short_help="Parse them again, and store what they give, once.",
    context_settings={"ignore_unknown_options": True},
)
@config_option
@click.option("--all", "is_all", is_flag=True, help="Everything that waits, or what the next two options say.")
@click.option("--venue", help="With --all: only of this venue.")
@click.option("--since", metavar="TIME", help="With --all: only received at or after this time.")
@click.option("--account", metavar="NAME", help="Read frames as this account's layouts say.")
@click.option("--dry-run", is_flag=True, help="Do everything but keep nothing of it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each entry.")
@click.argument("entry_ids", metavar="[ID]...", nargs=-1)
def replay_quarantine(config_path: str, entry_ids: tuple[str, ...], **options: Any) -> None:
    """Parse frames again, and store what they give, once; exit 1 if something still lies in quarantine."""
    from daemon.sinks.replay_report import replay_and_report  # noqa: PLC0415

    options["since"] = _parse_time(options["since"])
    is_done = replay_and_report(settings.load(config_path), entry_ids, click.echo, **options)
    sys.exit(0 if is_done else EXIT_FAILED)


@main.group(name="buffers")
def buffers_group() -> None:
    """Rings and spill files: list, verify, repair."""


@buffers_group.command(name="list", short_help="What each file holds, how far each consumer is.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def list_buffers(config_path: str, as_json: bool) -> None:
    """What each file holds, and how far each consumer has come; also while the daemon runs."""
    from daemon import buffers  # noqa: PLC0415

    found = buffers.survey(Path(settings.load(config_path).data_dir))
    click.echo(json.dumps(buffers.as_json(found)) if as_json else buffers.as_text(found))


@buffers_group.command(name="verify", short_help="Walk every record; exit 1 naming damaged places.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def verify_buffers(config_path: str, as_json: bool) -> None:
    """Walk every record (length, checksum, sequence); exit 1 naming damaged places; also while the daemon runs."""
    from daemon import buffers  # noqa: PLC0415

    found = buffers.survey(Path(settings.load(config_path).data_dir))
    click.echo(json.dumps(buffers.as_json(found)) if as_json else buffers.as_text(found))
    sys.exit(EXIT_FAILED if any(buffer.problems for buffer in found) else 0)


@buffers_group.command(name="repair", short_help="Cut torn ends, move damaged files aside.")
@config_option
def repair_buffers(config_path: str) -> None:
    """Cut torn ends (a copy is kept) and move damaged files aside; only while no daemon runs."""
    from daemon import buffers  # noqa: PLC0415

    config = settings.load(config_path)
    done = buffers.repair(Path(config.data_dir), grace_s=config.supervision.grace_s)
    click.echo("\n".join(done) or "nothing to do: every file is whole")


@main.group(name="config")
def config_group() -> None:
    """Starter file, effective values, JSON Schema."""


@config_group.command(short_help="Write a starter file, or print it.")
@click.argument("file", required=False)
def init(file: str | None) -> None:
    """Write a starter file to FILE (never over an existing one), or to stdout."""
    if file is None:
        click.echo(settings.STARTER, nl=False)
        return
    try:
        with Path(file).open("x", encoding="utf-8") as target:
            target.write(settings.STARTER)
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be written: {exc.strerror}") from exc


@config_group.command()
@config_option
def show(config_path: str) -> None:
    """Effective values, secrets masked."""
    click.echo(json.dumps(settings.masked(settings.load(config_path)), indent=2, ensure_ascii=False))


@config_group.command(name="schema")
def show_schema() -> None:
    """JSON Schema of the file."""
    click.echo(json.dumps(settings.schema(), indent=2))


if __name__ == "__main__":
    main()
