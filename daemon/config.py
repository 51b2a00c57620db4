"""Settings: frozen types, one TOML file, `SISE_*` environment variables, secrets by reference; parsed once.

Everything an operator may change is here with its default. An unknown key, a wrong type or a missing secret is a
`ConfigError` whose one line names the file and the key.
"""

import datetime
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct

from daemon.errors import ConfigError

ENVIRONMENT_PREFIX = "SISE_"
MASK = "********"
MAX_PORT = 65535
KEYWORD_DSN = re.compile(r"\s*\w+\s*=")  # libpq's other form: host=... port=...
PORT_OF_HOST = re.compile(r":([^:\]]*)$")

Secret = Annotated[str, Meta(extra={"secret": True})]
Url = Annotated[str, Meta(min_length=1, extra={"url": True})]
PositiveInt = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
StreamedChannel = Annotated[str, Meta(pattern=r"^(all|(ticker|orderbook|event)\.\w+)$")]
MarketWithSessions = Annotated[str, Meta(pattern="^(kr|us)$")]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; a key that is not listed here is refused."""


class Database(_Section, frozen=True):
    """TimescaleDB or plain PostgreSQL."""

    dsn: Url = "postgresql://sise@localhost/sise"
    batch_rows: PositiveInt = 20_000
    flush_interval_ms: PositiveInt = 200
    retry_delays_s: tuple[PositiveFloat, ...] = (1.0, 2.0, 4.0)
    connect_timeout_s: PositiveInt = 5
    statement_timeout_s: PositiveInt = 60
    retention_days: Annotated[int, Meta(ge=0)] = 365  # 0: keep for ever
    columnstore_after_days: PositiveInt = 7


class Spill(_Section, frozen=True):
    """Files for batches while the database is away: `failed_batches` in the data directory."""

    quota_gb: Annotated[float, Meta(ge=0)] = 100.0  # 0: only min_free_mb limits
    min_free_mb: Annotated[int, Meta(ge=0)] = 1024
    segment_mb: Annotated[int, Meta(ge=1, le=1024)] = 16
    interval_s: PositiveFloat = 2.0
    probe_s: PositiveFloat = 3.0
    recover_every_s: PositiveFloat = 600.0


class Redis(_Section, frozen=True):
    """Fan-out only: the path to the database never depends on it."""

    url: Url = "redis://localhost:6379/0"
    batch_messages: PositiveInt = 2_000
    flush_interval_ms: PositiveInt = 20
    timeout_s: PositiveFloat = 5.0
    retry_max_s: PositiveFloat = 5.0
    minute_counts_kept_h: PositiveInt = 48
    streams: tuple[StreamedChannel, ...] = ()  # channels that are kept as streams too; "all": every one
    stream_maxlen: PositiveInt = 100_000  # entries of each stream, roughly


class Http(_Section, frozen=True):
    """Metrics, health and the status page."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9464


class Ring(_Section, frozen=True):
    """The write-ahead log of each worker."""

    capacity_mb: Annotated[int, Meta(ge=1, le=65536)] = 256  # rounded up to a power of two
    wal_sync: Literal["off", "1s", "batch"] = "1s"


class Raw(_Section, frozen=True):
    """Capture of what the venues send, as it comes, for `sise replay`."""

    enabled: bool = False
    ring_mb: Annotated[int, Meta(ge=1, le=65536)] = 64  # of each worker; rounded up to a power of two
    keep_h: PositiveInt = 120
    protect_h: PositiveInt = 48  # never deleted, however full the disk is
    disk_percent: Annotated[int, Meta(ge=1, le=99)] = 90
    compression_level: Annotated[int, Meta(ge=1, le=19)] = 3


class Ingest(_Section, frozen=True):
    """How the workers talk to the venues."""

    subscribe_interval_ms: Annotated[int, Meta(ge=0)] = 100
    subscribe_timeout_s: PositiveFloat = 5.0
    subscribe_attempts: PositiveInt = 3
    connect_timeout_s: PositiveFloat = 10.0
    backoff_first_s: PositiveFloat = 1.0
    backoff_max_s: PositiveFloat = 60.0
    slot_held_backoff_s: PositiveFloat = 20.0  # another session has it: fast retries make it worse
    link_timeout_s: PositiveFloat = 100.0
    data_warn_s: PositiveFloat = 60.0  # of silence in market hours
    data_resubscribe_s: PositiveFloat = 120.0
    data_reconnect_s: PositiveFloat = 180.0
    symbol_silence_s: PositiveFloat = 300.0
    connects_per_10min: PositiveInt = 20  # of one account
    connects_per_10min_address: PositiveInt = 60  # of all accounts at one host
    requests_per_min: Annotated[int, Meta(ge=0)] = 0  # of one account; 0: paced by subscribe_interval_ms only
    key_cooldown_s: PositiveFloat = 60.0
    max_frame_bytes: Annotated[int, Meta(ge=65536)] = 16 * 1024 * 1024


class Alerts(_Section, frozen=True):
    """What is told on `system:alerts`, and how often."""

    repeat_s: PositiveFloat = 300.0
    per_minute: PositiveInt = 60
    queue: PositiveInt = 1000


class Reconcile(_Section, frozen=True):
    """The monitor compares what was received, stored and published, per symbol and minute."""

    enabled: bool = True
    interval_s: PositiveFloat = 60.0
    settle_s: PositiveFloat = 20.0  # behind the end of a minute
    statement_timeout_s: PositiveFloat = 30.0


class Calendar(_Section, frozen=True):
    """What the exchanges' calendars do not know yet."""

    closed: dict[MarketWithSessions, tuple[datetime.date, ...]] = {}  # days without a session


class Supervision(_Section, frozen=True):
    """When a process counts as dead and how long a stop may take."""

    grace_s: PositiveFloat = 20.0
    heartbeat_timeout_s: PositiveFloat = 30.0
    restart_first_s: PositiveFloat = 0.1
    restart_max_s: PositiveFloat = 10.0
    restarts_per_hour: PositiveInt = 60


class Log(_Section, frozen=True):
    """Log lines go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Account(_Section, frozen=True):
    """One set of credentials at a venue: one session."""

    name: Annotated[str, Meta(min_length=1)]
    venue: Annotated[str, Meta(min_length=1)]
    app_key: Secret = ""
    app_secret: Secret = ""
    ws_url: str = ""  # empty: the venue's own
    rest_url: str = ""
    layouts: tuple[str, ...] = ()  # where documents of the venue disagree: its names of the other reading
    max_subscriptions: Annotated[int, Meta(ge=0)] = 0  # 0: what the venue documents for one session


class Feed(_Section, frozen=True):
    """Which symbols to collect through which account, or through which accounts."""

    market: Literal["kr", "us", "crypto"]
    account: str = ""  # or accounts
    accounts: tuple[str, ...] = ()
    exchange: Literal["", "nxt", "sor"] = ""  # "" is the main exchange of the market
    kinds: Annotated[
        tuple[Literal["trade", "orderbook", "expected", "index", "nav", "status", "program", "quote"], ...],
        Meta(min_length=1),
    ] = ("trade", "orderbook")
    redundancy: Literal["none", "ab"] = "none"
    best_effort: bool = False
    symbols: tuple[Annotated[str, Meta(min_length=1, max_length=24)], ...] = ()
    symbols_file: str | None = None


class Config(_Section, frozen=True):
    """The whole file."""

    data_dir: Annotated[str, Meta(min_length=1)] = "/var/lib/sise"
    workers: Annotated[int, Meta(ge=1, le=64)] = 2
    single_socket: bool = False
    control_token: Secret = ""
    database: Database = Database()
    spill: Spill = Spill()
    redis: Redis = Redis()
    http: Http = Http()
    ring: Ring = Ring()
    raw: Raw = Raw()
    ingest: Ingest = Ingest()
    alerts: Alerts = Alerts()
    reconcile: Reconcile = Reconcile()
    calendar: Calendar = Calendar()
    supervision: Supervision = Supervision()
    log: Log = Log()
    accounts: tuple[Account, ...] = ()
    feeds: tuple[Feed, ...] = ()


STARTER = """\
# Sise: every key and its default is shown by `sise config show`, the schema by `sise config schema`.
# Any key can also be set in the environment: SISE_DATABASE__DSN=...  Secrets: { env = "NAME" } or { file = "/path" }.
data_dir = "/var/lib/sise"
workers = 2

[database]
dsn = "postgresql://sise@localhost/sise"

[redis]
url = "redis://localhost:6379/0"

[[accounts]]
name = "main"
venue = "kis"
app_key = { env = "KIS_APP_KEY" }
app_secret = { env = "KIS_APP_SECRET" }
max_subscriptions = 41

[[feeds]]
account = "main"
market = "kr"
kinds = ["trade", "orderbook"]
symbols = ["005930", "000660"]
"""


def load(path: str | Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read, override from *environment* (default: the process's), resolve secrets and check; ConfigError otherwise."""
    path = Path(path)
    environment = os.environ if environment is None else environment
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from exc
    _override(tree, environment, path)
    tree = _resolve(tree, environment, path, at="")
    for feed in tree.get("feeds", ()) if isinstance(tree.get("feeds"), list) else ():
        _read_symbols_file(feed, path)
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path}: {_name_key(str(exc))}") from exc
    _check(config, path)
    return config


def _override(tree: dict[str, Any], environment: Mapping[str, str], path: Path) -> None:
    """`SISE_DATABASE__DSN=x` sets `database.dsn`; values are read as TOML where they parse as such, else as text.

    Where the setting is a text, a number stays text: `SISE_CONTROL_TOKEN=12345` is a token.
    """
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if keys[0] not in Config.__struct_fields__:
            continue  # SISE_ASAN and the like are not ours
        node: Any = tree
        try:
            for key in keys[:-1]:
                node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
            place: str | int = int(keys[-1]) if isinstance(node, list) else keys[-1]
            node[place] = _parse_override(text, is_text=_is_text(keys))
        except (IndexError, ValueError, TypeError, AttributeError):
            raise ConfigError(
                f"{path}: {'.'.join(keys)}: environment variable {name} names no place in the file"
            ) from None


def _parse_override(text: str, *, is_text: bool) -> Any:
    try:
        value: Any = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return text if is_text and not isinstance(value, (str, dict)) else value  # a dict refers to a secret


def _is_text(keys: list[str]) -> bool:
    """Return whether the setting at *keys* (lower case, list indexes as digits) is declared as a text."""
    declared: Any = Config
    for key in keys:
        items = [item for item in get_args(declared) if item is not Ellipsis]
        if get_origin(declared) is tuple:
            declared = items[0]
        elif isinstance(declared, type) and issubclass(declared, Struct):
            declared = get_type_hints(declared).get(key)
        else:
            return False
    return declared is str or (str in get_args(declared) and get_origin(declared) is not tuple)


def _resolve(node: Any, environment: Mapping[str, str], path: Path, at: str) -> Any:
    """Replace `{ env = "NAME" }` and `{ file = "/path" }` by what they name."""
    if isinstance(node, list):
        return [_resolve(item, environment, path, f"{at}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if set(node) == {"env"} and isinstance(node["env"], str):
        if node["env"] not in environment:
            raise ConfigError(f"{path}: {at}: environment variable {node['env']} is not set")
        return environment[node["env"]]
    if set(node) == {"file"} and isinstance(node["file"], str):
        try:
            return Path(node["file"]).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise ConfigError(f"{path}: {at}: {node['file']} cannot be read: {exc.strerror}") from exc
        except ValueError as exc:
            raise ConfigError(f"{path}: {at}: {node['file']!r} is not a file of UTF-8 text") from exc
    return {k: _resolve(v, environment, path, f"{at}.{k}" if at else k) for k, v in node.items()}


def _read_symbols_file(feed: Any, path: Path) -> None:
    """Put the lines of `symbols_file` (relative to the config file; `#` starts a comment) into `symbols`."""
    if not isinstance(feed, dict) or not isinstance(feed.get("symbols_file"), str):
        return
    source = path.parent / feed["symbols_file"]
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise ConfigError(f"{path}: feeds.symbols_file: {source} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: feeds.symbols_file: {str(source)!r} is not a file of UTF-8 text") from exc
    symbols = [line.split("#")[0].strip() for line in lines]
    listed = feed.get("symbols", [])
    if isinstance(listed, list):  # else: refused with its key when the whole is checked
        feed["symbols"] = [*listed, *(s for s in symbols if s)]


def _name_key(message: str) -> str:
    """msgspec says "... - at `$.database.port`": put the key first, as the file writes it."""
    found = re.search(r"^(.*?)(?: - at (?:`key` in )?`\$\.?(.*?)`)?$", message, re.DOTALL)
    if found is None or not found[2]:
        return message
    unknown = re.search(r"unknown field `(.*)`", found[1])
    if unknown:
        return f"{found[2]}.{unknown[1]}: unknown key"
    return f"{found[2]}: {found[1]}"


def _check(config: Config, path: Path) -> None:
    """What types cannot say: names refer to each other, and nothing is collected twice."""
    names = [account.name for account in config.accounts]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: accounts.name: {name!r} is used twice")
    for number, feed in enumerate(config.feeds):
        _check_feed(feed, f"{path}: feeds[{number}]", names)
    if config.raw.keep_h < config.raw.protect_h:
        raise ConfigError(f"{path}: raw.keep_h: expected at least raw.protect_h ({config.raw.protect_h})")
    _check_url(config.database.dsn, "database.dsn", ("postgresql", "postgres"), path)
    _check_url(config.redis.url, "redis.url", ("redis", "rediss", "unix"), path)
    for account in config.accounts:
        for key, url, schemes in (
            ("ws_url", account.ws_url, ("ws", "wss")),
            ("rest_url", account.rest_url, ("http", "https")),
        ):
            if url:
                _check_url(url, f"accounts.{key}: account {account.name!r}", schemes, path)


def _check_feed(feed: Feed, at: str, names: list[str]) -> None:
    """Refuse a feed whose accounts are not said clearly. What it may collect is for the plan to judge."""
    if bool(feed.account) == bool(feed.accounts):
        raise ConfigError(f"{at}.account: expected account or accounts, found {'both' if feed.account else 'neither'}")
    key = "account" if feed.account else "accounts"
    for name in feed.accounts or (feed.account,):
        if name not in names:
            raise ConfigError(f"{at}.{key}: no account is called {name!r}")
        if feed.accounts.count(name) > 1:
            raise ConfigError(f"{at}.{key}: {name!r} is named twice")
    if not feed.symbols:
        raise ConfigError(f"{at}.symbols: is empty")


def _check_url(url: str, key: str, schemes: tuple[str, ...], path: Path) -> None:
    """Refuse another scheme, an impossible port and a URL without a host. The message holds no password."""
    if schemes[0] == "postgresql" and KEYWORD_DSN.match(url):
        ports = re.findall(r"\bport\s*=\s*'?([^\s']*)", url)
    else:
        try:
            parts = urlsplit(url)
            hosts = [host for host in parts.netloc.rpartition("@")[2].split(",") if host]
            is_placed = bool(parts.hostname) or schemes[0] == "postgresql"  # libpq has a default place
        except ValueError:
            raise ConfigError(f"{path}: {key}: is not a URL that can be read") from None
        if parts.scheme not in schemes:
            raise ConfigError(f"{path}: {key}: expected a URL that starts with {schemes[0]}://")
        if parts.scheme == "unix":
            is_placed = bool(parts.path)
        if not is_placed:
            raise ConfigError(f"{path}: {key}: expected {schemes[0]}://host:port, found no host")
        ports = [found[1] for host in hosts if (found := PORT_OF_HOST.search(host))]
    for port in (port for listed in ports for port in listed.split(",")):
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT):
            raise ConfigError(f"{path}: {key}: {port!r} is not a port, expected 1 to {MAX_PORT}")


def masked(config: Config) -> dict[str, Any]:
    """Return the effective values as builtins, secrets and passwords replaced: fit for logs and for `config show`."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    if tree["control_token"]:
        tree["control_token"] = MASK
    for account in tree["accounts"]:
        for key in ("app_key", "app_secret"):
            if account[key]:
                account[key] = MASK
    tree["database"]["dsn"] = mask_url(tree["database"]["dsn"])
    tree["redis"]["url"] = mask_url(tree["redis"]["url"])
    return tree


def mask_url(url: str) -> str:
    """Return *url* without its password, also when it is a libpq `key=value` string."""
    parts = urlsplit(url)
    if parts.password is None:
        return re.sub(r"(password=)('[^']*'|[^\s&]+)", rf"\1{MASK}", url)
    user = quote(parts.username or "")
    host = parts.netloc.rpartition("@")[2]
    query = re.sub(r"(password=)[^&]+", rf"\1{MASK}", parts.query)
    return urlunsplit(parts._replace(netloc=f"{user}:{MASK}@{host}", query=query))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    return msgspec.json.schema(Config)
