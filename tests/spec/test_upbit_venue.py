"""What Upbit's control frames mean, and how requests are written."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest
from picows import WSListener

from daemon.config import Account
from daemon.errors import BadFrame, ConfigError, InvariantBroken, Retryable
from daemon.ingest.connector import NetworkConnector
from daemon.ingest.venues import venue_named
from daemon.ingest.venues.upbit import ERRORS, UpbitVenue
from daemon.ingest.venues.venue import (
    Heartbeat,
    Notice,
    Refusal,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
)
from native_pipeline.parse_upbit import UpbitParser
from tests.reference.native_upbit import sample

ACCOUNT = Account(name="public", venue="upbit")
BTC_TRADES = Registration("trade", "KRW-BTC")
BTC_BOOK = Registration("orderbook", "KRW-BTC.15")
ETH_BOOK = Registration("orderbook", "KRW-ETH.15")
BTC_TICKER = Registration("ticker", "KRW-BTC")


@pytest.fixture
def venue() -> UpbitVenue:
    return UpbitVenue()


# ---- what it needs ---------------------------------------------------------------------------------------------------


def test_anyone_can_use_it_without_an_account(venue: UpbitVenue) -> None:
    assert isinstance(venue_named("upbit"), UpbitVenue)
    assert not venue.needs_approval_key
    assert not venue.needs_login
    with pytest.raises(InvariantBroken):
        venue.approval_request(ACCOUNT)
    with pytest.raises(InvariantBroken):
        venue.encode_login("")


def test_the_connection_is_kept_alive_long_before_the_venue_ends_it(venue: UpbitVenue) -> None:
    assert venue.keep_alive is not None
    assert venue.keep_alive.frame == b"PING"
    assert 30.0 <= venue.keep_alive.interval_s <= 60.0


@pytest.mark.parametrize(
    ("configured", "used"),
    [
        ("", "wss://api.upbit.com/websocket/v1"),
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/websocket/v1"),
        ("ws://127.0.0.1:8080/", "ws://127.0.0.1:8080/"),
    ],
)
def test_the_url_is_the_accounts_or_the_venues(venue: UpbitVenue, configured: str, used: str) -> None:
    assert used == venue.websocket_url(Account(name="public", venue="upbit", ws_url=configured))


# ---- registrations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "registration"), [("trade", BTC_TRADES), ("orderbook", BTC_BOOK), ("quote", BTC_TICKER)]
)
def test_each_kind_of_data_is_registered_by_its_code(venue: UpbitVenue, kind: str, registration: Registration) -> None:
    assert registration == venue.registration("crypto", kind, "", "KRW-BTC")
    assert venue.record_symbol(registration) == "KRW-BTC"


@pytest.mark.parametrize(
    ("market", "kind", "exchange", "symbol", "named"),
    [
        ("kr", "trade", "", "KRW-BTC", "market"),
        ("crypto", "nav", "", "KRW-BTC", "kinds"),
        ("crypto", "trade", "nxt", "KRW-BTC", "exchange"),
        ("crypto", "trade", "", "krw-btc", "symbols"),
        ("crypto", "trade", "", "KRW-BTC.15", "symbols"),
        ("crypto", "trade", "", "BTC", "symbols"),
        ("crypto", "trade", "", "", "symbols"),
    ],
)
def test_what_the_venue_does_not_have_is_a_configuration_error(
    venue: UpbitVenue, market: str, kind: str, exchange: str, symbol: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=rf"feeds\.{named}"):
        venue.registration(market, kind, exchange, symbol)


# ---- requests --------------------------------------------------------------------------------------------------------


def test_a_request_has_the_shape_of_the_protocol_description(venue: UpbitVenue) -> None:
    documented = json.loads(sample("upbit_request.json"))
    eth_trades = Registration("trade", "KRW-ETH")

    request = json.loads(venue.encode_subscribe("", [BTC_TRADES, eth_trades, BTC_BOOK]))

    assert [list(part) for part in documented] == [list(part) for part in request]
    assert documented[1] == request[1]
    assert documented[3] == request[3]
    uuid.UUID(request[0]["ticket"])


def test_a_request_states_everything_that_is_wanted_one_object_a_type(venue: UpbitVenue) -> None:
    request = json.loads(venue.encode_subscribe("", [BTC_TRADES, BTC_BOOK, BTC_TICKER, ETH_BOOK]))

    assert request[1:] == [
        {"type": "trade", "codes": ["KRW-BTC"], "is_only_realtime": True},
        {"type": "orderbook", "codes": ["KRW-BTC.15", "KRW-ETH.15"]},
        {"type": "ticker", "codes": ["KRW-BTC"]},
        {"format": "SIMPLE"},
    ]
    assert venue.replaces_all


def test_giving_something_up_is_asking_for_the_rest(venue: UpbitVenue) -> None:
    request = json.loads(venue.encode_unsubscribe("", [ETH_BOOK]))

    assert request[1:] == [{"type": "orderbook", "codes": ["KRW-ETH.15"]}, {"format": "SIMPLE"}]


def test_every_request_has_a_ticket_of_its_own(venue: UpbitVenue) -> None:
    tickets = {json.loads(venue.encode_subscribe("", [BTC_TRADES]))[0]["ticket"] for _ in range(10)}

    assert len(tickets) == 10


async def test_no_origin_header_is_sent_because_it_would_cost_the_connection_its_rate(venue: UpbitVenue) -> None:
    heads: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        account = Account(name="public", venue="upbit", ws_url=url)
        connector = NetworkConnector(connect_timeout_s=10.0, max_frame_bytes=1 << 20)
        with pytest.raises(Retryable):
            await connector.open(venue.websocket_url(account), WSListener())

    head = heads[0].lower()
    assert head.startswith(b"get /websocket/v1 http/1.1\r\n")
    assert b"upgrade: websocket" in head
    assert b"\norigin" not in head


# ---- replies ---------------------------------------------------------------------------------------------------------


def test_the_answer_to_our_ping_is_a_heartbeat_that_needs_no_reply(venue: UpbitVenue) -> None:
    assert venue.decode_control(sample("upbit_status.json")) == Heartbeat(reply=b"", code="UP")
    assert venue.decode_control(b'{"status":"DOWN"}') == Notice("DOWN")


@pytest.mark.requirement("SUB-CONF-02")
def test_an_error_refuses_the_request_it_answers(venue: UpbitVenue) -> None:
    refused = venue.decode_control(sample("upbit_error.json"))

    assert refused == RegistrationRefused(None, Refusal.INVALID, "NO_CODES", "codes missing")


@pytest.mark.requirement("SUB-CONF-02")
@pytest.mark.parametrize("name", ["WRONG_FORMAT", "NO_TICKET", "NO_TYPE", "NO_CODES", "INVALID_PARAM"])
def test_an_error_in_the_request_is_not_repeated(venue: UpbitVenue, name: str) -> None:
    message = venue.decode_control(json.dumps({"error": {"name": name, "message": "x"}}).encode())

    assert message == RegistrationRefused(None, Refusal.INVALID, name, "x")
    assert name in ERRORS


def test_a_refused_credential_needs_the_operator(venue: UpbitVenue) -> None:
    message = venue.decode_control(b'{"error":{"name":"INVALID_AUTH","message":"x"}}')

    assert message == SessionRefused(SessionFault.CREDENTIAL_REFUSED, "INVALID_AUTH", "x")


@pytest.mark.requirement("SUB-CONF-02")
@pytest.mark.parametrize("error", [b'{"name":"TOO_MANY_SUBSCRIBE","message":"x"}', b'{"name":429,"message":"x"}'])
def test_an_error_that_nobody_knows_is_no_consent(venue: UpbitVenue, error: bytes) -> None:
    message = venue.decode_control(b'{"error":%s}' % error)

    assert isinstance(message, RegistrationRefused)
    assert (message.registration, message.refusal) == (None, Refusal.RETRY)


@pytest.mark.parametrize(
    "frame", [b"{}", b"[]", b"", b'{"status":5}', b'{"error":{}}', b'{"error":"x"}', b'{"status":"U', b'{"x":1}']
)
def test_anything_else_is_not_a_control_frame(venue: UpbitVenue, frame: bytes) -> None:
    with pytest.raises(BadFrame):
        venue.decode_control(frame)


def test_a_broken_character_in_a_text_does_not_cost_the_code_beside_it(venue: UpbitVenue) -> None:
    message = venue.decode_control(b'{"error":{"name":"NO_CODES","message":"\xff"}}')

    assert isinstance(message, RegistrationRefused)
    assert message.code == "NO_CODES"


# ---- its parser ------------------------------------------------------------------------------------------------------


def test_recorded_snapshots_are_shown_as_trades_and_live_ones_are_not_stored_as_such(venue: UpbitVenue) -> None:
    recorded = venue.make_parser(venue.decode_market, 0)
    venue.on_session_start()
    live = venue.make_parser("", 5)

    assert isinstance(recorded, UpbitParser)
    assert isinstance(live, UpbitParser)
    assert (recorded.snapshot_trades, live.snapshot_trades) == (True, False)
    assert (live.venue, live.market, live.connection) == (3, 3, 5)
