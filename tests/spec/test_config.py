"""Settings: what is wrong is said in one line that names file and key, before anything starts."""

import datetime
from pathlib import Path

import pytest

from daemon import config as settings
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.ingest.venues import EXCHANGE_NAMES, KIND_NAMES, MARKET_NAMES

ACCOUNT = '[[accounts]]\nname = "main"\nvenue = "kis"\napp_key = "key"\napp_secret = "secret"\n'
FEED = '[[feeds]]\naccount = "main"\nmarket = "kr"\nsymbols = ["005930"]\n'


def load(directory: Path, text: str = ACCOUNT + FEED, **environment: str) -> Config:
    path = directory / "sise.toml"
    path.write_text(text)
    return settings.load(path, environment)


def refusal(directory: Path, text: str = ACCOUNT + FEED, **environment: str) -> str:
    """Return what is said after the name of the file."""
    with pytest.raises(ConfigError) as error:
        load(directory, text, **environment)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{directory / 'sise.toml'}: ")
    return message.removeprefix(f"{directory / 'sise.toml'}: ")


def test_the_environment_overrides_the_file_at_any_depth(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        SISE_WORKERS="4",
        SISE_LOG__LEVEL="debug",
        SISE_DATABASE__RETRY_DELAYS_S="[0.5, 1.0]",
        SISE_ACCOUNTS__0__MAX_SUBSCRIPTIONS="7",
        SISE_FEEDS__0__SYMBOLS='["000660"]',
        SISE_ASAN="1",  # not ours
    )

    assert (config.workers, config.log.level, config.database.retry_delays_s) == (4, "debug", (0.5, 1.0))
    assert config.accounts[0].max_subscriptions == 7
    assert config.feeds[0].symbols == ("000660",)


@pytest.mark.parametrize("text", ["12345", "1.5", "true", "2026-01-01", "[1]", "0x1f"])
def test_what_is_declared_as_text_stays_text_whatever_it_looks_like(tmp_path: Path, text: str) -> None:
    config = load(tmp_path, SISE_CONTROL_TOKEN=text, SISE_ACCOUNTS__0__APP_KEY=text, SISE_FEEDS__0__SYMBOLS__0=text)

    assert (config.control_token, config.accounts[0].app_key, config.feeds[0].symbols) == (text, text, (text,))


def test_a_quoted_text_and_a_reference_in_the_environment_are_understood(tmp_path: Path) -> None:
    config = load(tmp_path, SISE_DATA_DIR='"/srv/sise"', SISE_CONTROL_TOKEN='{ env = "TOKEN" }', TOKEN="42")

    assert (config.data_dir, config.control_token) == ("/srv/sise", "42")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("SISE_ACCOUNTS__5__NAME", "accounts.5.name"),
        ("SISE_ACCOUNTS__5", "accounts.5"),
        ("SISE_ACCOUNTS__FIRST__NAME", "accounts.first.name"),
        ("SISE_ACCOUNTS__NAME", "accounts.name"),
        ("SISE_ACCOUNTS__0__NAME__X", "accounts.0.name.x"),
        ("SISE_ACCOUNTS__0__NAME__X__Y", "accounts.0.name.x.y"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, name: str, key: str) -> None:
    assert refusal(tmp_path, **{name: "x"}) == f"{key}: environment variable {name} names no place in the file"


@pytest.mark.parametrize("name", ["SISE_HTTP__COLOUR", "SISE_HTTP__", "SISE_HTTP"])
def test_an_override_of_what_does_not_exist_names_its_section(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, **{name: "x"}).startswith("http")


@pytest.mark.parametrize(
    ("key", "url", "message"),
    [
        ("database.dsn", "postgresql://u:hidden@localhost:99999/x", "database.dsn: '99999' is not a port"),
        ("database.dsn", "postgresql://u:hidden@localhost:port/x", "database.dsn: 'port' is not a port"),
        ("database.dsn", "postgresql://a:1,b:0/x", "database.dsn: '0' is not a port"),
        ("database.dsn", "host=localhost port=99999 password=hidden", "database.dsn: '99999' is not a port"),
        ("database.dsn", "postgresql://[::1/sise", "database.dsn: is not a URL that can be read"),
        (
            "database.dsn",
            "mysql://localhost/x?user=sise",
            "database.dsn: expected a URL that starts with postgresql://",
        ),
        ("redis.url", "redis://:hidden@:6379/0", "redis.url: expected redis://host:port, found no host"),
        ("redis.url", "redis://localhost:70000", "redis.url: '70000' is not a port"),
        ("redis.url", "host=localhost", "redis.url: expected a URL that starts with redis://"),
        ("redis.url", "unix://", "redis.url: expected redis://host:port, found no host"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(tmp_path: Path, key: str, url: str, message: str) -> None:
    found = refusal(tmp_path, **{f"SISE_{key.replace('.', '__').upper()}": url})

    assert found.startswith(message)
    assert "hidden" not in found


@pytest.mark.parametrize(
    "message",
    [
        'ws_url = "ws://127.0.0.1:99999" is not a port',
        'ws_url = "ws://127.0.0.1:-1" is not a port',
        'ws_url = "http://127.0.0.1:80" starts with ws://',
        'ws_url = "ws://:80" found no host',
        'rest_url = "https://" found no host',
        'rest_url = "127.0.0.1:80" starts with http://',
        'rest_url = "http://127.0.0.1:x" is not a port',
    ],
)
def test_an_address_of_the_venue_that_leads_nowhere_is_refused(tmp_path: Path, message: str) -> None:
    key, _, url, *reason = message.split(" ")

    found = refusal(tmp_path, f"{ACCOUNT}{key} = {url}\n{FEED}")

    assert found.startswith(f"accounts.{key}: account 'main': ")
    assert " ".join(reason) in found


@pytest.mark.parametrize(
    ("dsn", "redis_url"),
    [
        ("postgresql://sise@localhost/sise", "redis://localhost"),
        ("postgres://u:p%40ss@[::1]:5433/sise", "rediss://:secret@[::1]:6380/1"),
        ("postgresql:///sise?host=/run/postgresql", "unix:///run/redis.sock"),
        ("postgresql://a:5432,b/sise", "redis://user:p@h:6379"),
        ("host=/run/postgresql dbname=sise port=5432", "redis://localhost:6379/0"),
    ],
)
def test_every_usual_address_is_accepted(tmp_path: Path, dsn: str, redis_url: str) -> None:
    config = load(tmp_path, SISE_DATABASE__DSN=dsn, SISE_REDIS__URL=redis_url)

    assert (config.database.dsn, config.redis.url) == (dsn, redis_url)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers = 0", "workers: "),
        ("colour = 1", "Object contains unknown field `colour`"),
        ("workers =", "is not TOML: "),
        ('[[accounts]]\nname = "a"', "accounts[0]: Object missing required field `venue`"),
        ('control_token = { env = "NOT_THERE" }', "control_token: environment variable NOT_THERE is not set"),
        (ACCOUNT + FEED + 'symbols_file = "none.txt"', "feeds.symbols_file: "),
        (ACCOUNT + FEED.replace('["005930"]', "5") + 'symbols_file = "sise.toml"', "feeds[0].symbols: "),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert refusal(tmp_path, f'control_token = {{ file = "{tmp_path}/binary" }}').startswith("control_token: ")
    assert refusal(tmp_path, ACCOUNT + FEED + 'symbols_file = "binary"').startswith("feeds.symbols_file: ")


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (FEED.replace('account = "main"\n', ""), "feeds[0].account: expected account or accounts, found neither"),
        (FEED + 'accounts = ["main"]', "feeds[0].account: expected account or accounts, found both"),
        (FEED.replace('account = "main"', 'accounts = ["none"]'), "feeds[0].accounts: no account is called 'none'"),
        (FEED.replace('"main"', '"none"'), "feeds[0].account: no account is called 'none'"),
        (FEED.replace('account = "main"', 'accounts = ["main", "main"]'), "feeds[0].accounts: 'main' is named twice"),
        (FEED.replace('["005930"]', "[]"), "feeds[0].symbols: is empty"),
        (FEED + 'kinds = ["candles"]', "feeds[0].kinds[0]: "),
        (FEED + 'exchange = "krx"', "feeds[0].exchange: "),
        (FEED + 'redundancy = "abc"', "feeds[0].redundancy: "),
    ],
)
def test_a_feed_that_is_not_clear_is_refused(tmp_path: Path, feed: str, message: str) -> None:
    assert refusal(tmp_path, ACCOUNT + feed).startswith(message)


def test_a_feed_offers_the_kinds_and_exchanges_of_the_registry() -> None:
    properties = settings.schema()["$defs"]["Feed"]["properties"]

    assert set(properties["kinds"]["items"]["enum"]) == set(KIND_NAMES)
    assert set(properties["exchange"]["enum"]) == set(EXCHANGE_NAMES)
    assert set(properties["market"]["enum"]) == set(MARKET_NAMES) - {""}


def test_the_documented_example_loads(tmp_path: Path) -> None:
    example = """
        data_dir = "/var/lib/sise"
        workers = 2
        [database]
        dsn = "postgresql://sise@localhost/sise"
        [redis]
        url = "redis://localhost:6379/0"
        [http]
        host = "127.0.0.1"
        port = 9464
        [[accounts]]
        name = "main"
        venue = "kis"                      # kis | kiwoom | upbit
        app_key = { env = "KIS_APP_KEY" }
        app_secret = { env = "KIS_APP_SECRET" }
        ws_url = "ws://ops.koreainvestment.com:21000"
        rest_url = "https://openapi.koreainvestment.com:9443"
        max_subscriptions = 41
        [[feeds]]
        account = "main"
        market = "kr"                      # kr | us | crypto
        kinds = ["trade", "orderbook"]
        symbols = ["005930", "000660"]     # or symbols_file = "kr.txt"
    """

    config = load(tmp_path, example, KIS_APP_KEY="k", KIS_APP_SECRET="s")

    assert (config.accounts[0].max_subscriptions, config.feeds[0].symbols) == (41, ("005930", "000660"))


def test_a_file_of_symbols_has_one_a_line_and_comments(tmp_path: Path) -> None:
    (tmp_path / "kr.txt").write_text("# main\n005930\n\n  000660  # memory\n#\n")

    assert load(tmp_path, ACCOUNT + FEED + 'symbols_file = "kr.txt"').feeds[0].symbols == ("005930", "005930", "000660")


def test_days_without_a_session_are_dates_by_market(tmp_path: Path) -> None:
    text = ACCOUNT + FEED + '[calendar.closed]\nkr = ["2026-12-31", 2027-01-04]\n'

    config = load(tmp_path, text)

    assert config.calendar.closed == {"kr": (datetime.date(2026, 12, 31), datetime.date(2027, 1, 4))}
    assert settings.masked(config)["calendar"] == {"closed": {"kr": ("2026-12-31", "2027-01-04")}}
    assert refusal(tmp_path, text.replace("kr = [", "jp = [")).startswith("calendar.closed")
    assert refusal(tmp_path, text.replace("2026-12-31", "New Year")).startswith("calendar.closed")


def test_settings_without_feeds_are_settings(tmp_path: Path) -> None:
    assert load(tmp_path, "").feeds == ()
