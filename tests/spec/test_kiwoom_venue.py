"""What Sise says to Kiwoom and how it reads the answers; decisions are made on codes, never on Korean texts."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from daemon.config import Account
from daemon.errors import BadFrame, ConfigError, Refused, Retryable
from daemon.ingest.venues import MARKET_IDS, VENUE_IDS, venue_named
from daemon.ingest.venues.kiwoom import CHANNELS, KiwoomVenue
from daemon.ingest.venues.venue import (
    AccessKey,
    Heartbeat,
    LoggedIn,
    Notice,
    Refusal,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
    Subscribed,
    Unknown,
    Unsubscribed,
)
from native_pipeline.parse_kiwoom import KiwoomParser
from tests.reference import kiwoom as twin
from tests.reference.native_kiwoom import sample

pytestmark = pytest.mark.requirement("SUB-CONF-01")

KOREA = datetime.timezone(datetime.timedelta(hours=9))
NOW = datetime.datetime(2026, 11, 20, 10, 30, tzinfo=KOREA)
ACCOUNT = Account(name="k1", venue="kiwoom", app_key="KEY", app_secret="SECRET")


@pytest.fixture
def venue() -> KiwoomVenue:
    return KiwoomVenue()


def products(frame: bytes) -> list[tuple[str, str]]:
    """What the venue registers for *frame*: every item of every type."""
    return sorted(
        (kind, item) for group in json.loads(frame)["data"] for item in group["item"] for kind in group["type"]
    )


def reply(trnm: str, code: Any, text: str = "") -> bytes:
    return json.dumps({"trnm": trnm, "return_code": code, "return_msg": text}, ensure_ascii=False).encode()


# ---- requests --------------------------------------------------------------------------------------------------------


def test_the_registry_makes_a_new_venue_each_time() -> None:
    assert isinstance(venue_named("kiwoom"), KiwoomVenue)
    assert venue_named("kiwoom") is not venue_named("kiwoom")


def test_a_session_begins_with_a_login(venue: KiwoomVenue) -> None:
    assert venue.needs_login
    assert venue.encode_login("TESTTOKEN0123456789") == sample("login_request.json")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "wss://api.kiwoom.com:10000/api/dostk/websocket"),
        ("wss://mockapi.kiwoom.com:10000", "wss://mockapi.kiwoom.com:10000/api/dostk/websocket"),
        ("ws://127.0.0.1:9/x", "ws://127.0.0.1:9/x"),
    ],
)
def test_the_url_is_the_accounts_or_the_venues(venue: KiwoomVenue, url: str, expected: str) -> None:
    account = Account(name="k1", venue="kiwoom", ws_url=url)

    assert venue.websocket_url(account) == expected


def test_one_request_asks_for_exactly_its_registrations(venue: KiwoomVenue) -> None:
    wanted = [Registration("0B", "005930"), Registration("0D", "005930"), Registration("0B", "000660_AL")]

    frame = venue.encode_subscribe("", wanted)

    request = json.loads(frame)
    assert (request["trnm"], request["grp_no"], request["refresh"]) == ("REG", "1", "1")
    assert products(frame) == sorted(wanted)


def test_a_request_of_one_kind_is_one_group(venue: KiwoomVenue) -> None:
    frame = venue.encode_subscribe("", [Registration("0B", f"{number:06}") for number in range(100)])

    assert [len(group["item"]) for group in json.loads(frame)["data"]] == [100]


def test_the_request_is_that_of_the_venues_specification(venue: KiwoomVenue) -> None:
    wanted = [Registration(kind, item) for item in ("005930", "000660_AL") for kind in ("0B", "0D")]

    assert venue.encode_subscribe("", wanted) == sample("reg_request.json")
    assert venue.encode_unsubscribe("", [Registration("0B", "005930")]) == sample("remove_request.json")


def test_the_market_status_registers_two_types_of_all_issues(venue: KiwoomVenue) -> None:
    frame = venue.encode_subscribe("", [venue.registration("kr", "status", "", "*"), Registration("0B", "005930")])

    assert products(frame) == [("0B", "005930"), ("0s", ""), ("1h", "")]
    assert products(venue.encode_unsubscribe("", [venue.registration("kr", "status", "", "*")])) == [
        ("0s", ""),
        ("1h", ""),
    ]


# ---- registrations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "exchange", "expected"),
    [
        ("trade", "", Registration("0B", "005930")),
        ("trade", "nxt", Registration("0B", "005930_NX")),
        ("orderbook", "sor", Registration("0D", "005930_AL")),
        ("expected", "", Registration("0H", "005930")),
        ("quote", "", Registration("0A", "005930")),
        ("index", "", Registration("0J", "005930")),
        ("status", "", Registration("1h", "005930")),
    ],
)
def test_a_kind_is_a_type_and_an_exchange_a_suffix(
    venue: KiwoomVenue, kind: str, exchange: str, expected: Registration
) -> None:
    registration = venue.registration("kr", kind, exchange, "005930")

    assert registration == expected
    assert venue.record_symbol(registration) == "005930"


@pytest.mark.parametrize(
    ("market", "kind", "exchange", "symbol", "named"),
    [
        ("us", "trade", "", "AAPL", "feeds.market"),
        ("kr", "ticker", "", "005930", "feeds.kinds"),
        ("kr", "trade", "nyse", "005930", "feeds.exchange"),
        ("kr", "index", "nxt", "001", "feeds.exchange"),
        ("kr", "trade", "", "005930_NX", "feeds.symbols"),
        ("kr", "trade", "", "*", "feeds.symbols"),
        ("kr", "trade", "", "", "feeds.symbols"),
        ("kr", "trade", "", "KRW-BTC", "feeds.symbols"),
    ],
)
def test_what_the_venue_does_not_have_is_refused_by_name(
    venue: KiwoomVenue, market: str, kind: str, exchange: str, symbol: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        venue.registration(market, kind, exchange, symbol)


@pytest.mark.parametrize("exchange", ["", "nxt", "sor"])
@pytest.mark.parametrize("kind", ["trade", "orderbook", "expected", "quote", "status"])
def test_records_carry_the_symbol_that_the_registration_promises(venue: KiwoomVenue, kind: str, exchange: str) -> None:
    """Else a stream that flows would look silent for ever."""
    registration = venue.registration("kr", kind, exchange, "005930")
    entry = json.loads(sample("real_0D_book.json" if kind == "orderbook" else "real_0B_sell.json"))["data"][0]
    entry |= {"type": registration.channel, "item": registration.key}

    record = twin.parse_entry(json.dumps(entry), 0)

    assert record["symbol"] == venue.record_symbol(registration)


def test_every_kind_has_a_type() -> None:
    assert set(CHANNELS) == {"trade", "orderbook", "expected", "index", "nav", "status", "program", "quote"}


def test_the_parser_stamps_the_numbers_of_the_registries(venue: KiwoomVenue) -> None:
    parser = venue.make_parser("kr", 3)

    assert isinstance(parser, KiwoomParser)
    assert (parser.venue, parser.market, parser.connection) == (VENUE_IDS["kiwoom"], MARKET_IDS["kr"], 3)
    assert KiwoomParser(venue=VENUE_IDS["kiwoom"]).market == MARKET_IDS["kr"]


# ---- replies ---------------------------------------------------------------------------------------------------------


def test_a_ping_is_echoed_byte_for_byte(venue: KiwoomVenue) -> None:
    for frame in (sample("ping.json"), b'{ "trnm" : "PING", "seq":[1, 2] }\n'):
        assert venue.decode_control(frame) == Heartbeat(reply=frame, code="PING")


@pytest.mark.parametrize("code", [0, "0"])
def test_success_is_return_code_zero_as_number_or_text(venue: KiwoomVenue, code: Any) -> None:
    assert venue.decode_control(reply("LOGIN", code)) == LoggedIn("0")
    assert venue.decode_control(reply("REG", code)) == Subscribed(None, "0")
    assert venue.decode_control(reply("REMOVE", code)) == Unsubscribed(None, "0")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("login_ok.json", LoggedIn("0")),
        ("reg_ok.json", Subscribed(None, "0")),
        ("reg_ok_string_code.json", Subscribed(None, "0")),
        ("remove_ok.json", Unsubscribed(None, "0")),
        ("reg_error.json", RegistrationRefused(None, Refusal.UNEXPLAINED, "1", "등록 종목수 초과")),
    ],
)
def test_a_sample_reply_means_what_its_manifest_says(venue: KiwoomVenue, name: str, expected: Any) -> None:
    assert venue.decode_control(sample(name)) == expected


@pytest.mark.requirement("KEY-01")
def test_a_login_with_an_invalid_token_asks_for_a_new_one(venue: KiwoomVenue) -> None:
    refused = venue.decode_control(sample("login_fail_8005.json"))

    assert isinstance(refused, SessionRefused)
    assert (refused.fault, refused.code) == (SessionFault.KEY_EXPIRED, "805004")
    assert "CODE=8005" in refused.text


@pytest.mark.parametrize(
    ("inner", "fault"),
    [("8005", SessionFault.KEY_EXPIRED), ("8031", SessionFault.KEY_EXPIRED), ("8103", SessionFault.KEY_EXPIRED),
     ("8010", SessionFault.CREDENTIAL_REFUSED), ("8030", SessionFault.CREDENTIAL_REFUSED),
     ("8001", SessionFault.CREDENTIAL_REFUSED), ("8999", SessionFault.CREDENTIAL_REFUSED),
     ("1999", SessionFault.KEY_EXPIRED)],
)  # fmt: skip
def test_the_code_in_the_text_of_a_refused_login_decides(venue: KiwoomVenue, inner: str, fault: SessionFault) -> None:
    said = venue.decode_control(reply("LOGIN", 805004, f"토큰 인증에 실패했습니다 [CODE={inner}, MESSAGE=...]"))

    assert isinstance(said, SessionRefused)
    assert said.fault is fault


def test_a_refused_login_without_a_code_is_worth_a_new_token(venue: KiwoomVenue) -> None:
    assert venue.decode_control(reply("LOGIN", 1, "실패 [8]")) == SessionRefused(
        SessionFault.KEY_EXPIRED, "1", "실패 [8]"
    )


@pytest.mark.parametrize(
    ("text", "refusal"),
    [("등록 종목수 초과", Refusal.UNEXPLAINED), ("", Refusal.UNEXPLAINED), ("[1700:...]", Refusal.RETRY),
     ("x [CODE=1702, MESSAGE=x]", Refusal.RETRY), ("[1999]", Refusal.RETRY), ("[1902:종목]", Refusal.INVALID),
     ("[1517:값]", Refusal.INVALID), ("[8104:모의]", Refusal.NOT_ENTITLED)],
)  # fmt: skip
def test_a_refused_registration_is_judged_by_its_code(venue: KiwoomVenue, text: str, refusal: Refusal) -> None:
    assert venue.decode_control(reply("REG", 1, text)) == RegistrationRefused(None, refusal, "1", text)


def test_a_token_that_ends_while_registering_ends_the_session(venue: KiwoomVenue) -> None:
    said = venue.decode_control(reply("REG", 3, "[8005:Token이 유효하지 않습니다]"))

    assert isinstance(said, SessionRefused)
    assert said.fault is SessionFault.KEY_EXPIRED


def test_what_cannot_be_removed_is_not_registered(venue: KiwoomVenue) -> None:
    assert venue.decode_control(reply("REMOVE", 1, "없음")) == Unsubscribed(None, "1", "없음")
    busy = venue.decode_control(reply("REMOVE", 1, "[1700:x]"))
    assert busy == RegistrationRefused(None, Refusal.RETRY, "1", "[1700:x]")


def test_a_second_login_elsewhere_supersedes_this_session(venue: KiwoomVenue) -> None:
    said = venue.decode_control(sample("system_R10001_duplicate.json"))

    assert isinstance(said, SessionRefused)
    assert (said.fault, said.code) == (SessionFault.SUPERSEDED, "R10001")


@pytest.mark.parametrize("name", ["system_R10002_heartbeat.json", "system_R10004_no_login.json"])
def test_other_system_codes_are_noted_as_the_venue_closes_the_session_itself(venue: KiwoomVenue, name: str) -> None:
    assert isinstance(venue.decode_control(sample(name)), Notice)


@pytest.mark.parametrize(
    "frame",
    [b'{"trnm":"SYSTEM","code":"R10009","message":"x"}', b'{"trnm":"SYSTEM"}', b'{"trnm":"REG"}', b'{"trnm":"LOGIN"}',
     b'{"trnm":"REMOVE"}'],
)  # fmt: skip
def test_a_message_without_a_meaning_is_unknown(venue: KiwoomVenue, frame: bytes) -> None:
    assert isinstance(venue.decode_control(frame), Unknown)


@pytest.mark.parametrize(
    "frame",
    [sample("malformed/unknown_trnm.json"), b"{}", b"[]", b"{", b'{"trnm":1}', b'{"trnm":"REG","return_code":[]}'],
)
def test_what_the_venue_does_not_document_is_a_bad_frame(venue: KiwoomVenue, frame: bytes) -> None:
    with pytest.raises(BadFrame):
        venue.decode_control(frame)


def test_a_text_in_another_encoding_does_not_cost_its_code(venue: KiwoomVenue) -> None:
    frame = b'{"trnm":"LOGIN","return_code":805004,"return_msg":"\xc5\xe4\xc5\xab [CODE=8030, MESSAGE=\xbd\xc7]"}'

    said = venue.decode_control(frame)

    assert isinstance(said, SessionRefused)
    assert said.fault is SessionFault.CREDENTIAL_REFUSED


# ---- the token -------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("KEY-01")
def test_a_token_is_asked_for_with_key_and_secret(venue: KiwoomVenue) -> None:
    request = venue.approval_request(ACCOUNT)

    assert request.url == "https://api.kiwoom.com/oauth2/token"
    assert request.headers == {"content-type": "application/json;charset=UTF-8"}
    assert json.loads(request.body) == {"grant_type": "client_credentials", "appkey": "KEY", "secretkey": "SECRET"}
    assert "SECRET" not in repr(request)
    mock = Account(name="k1", venue="kiwoom", rest_url="https://mockapi.kiwoom.com/")
    assert venue.approval_request(mock).url == "https://mockapi.kiwoom.com/oauth2/token"


@pytest.mark.requirement("KEY-01")
def test_a_token_lives_until_its_expiry_in_korea(venue: KiwoomVenue) -> None:
    key = venue.decode_approval(200, sample("token_reply.json"), NOW.astimezone(datetime.UTC))

    assert (key.key, key.valid_for_s) == ("TESTTOKEN0123456789", 86_400.0)
    assert "TESTTOKEN" not in repr(key)


def test_a_token_without_a_readable_expiry_is_used_for_hours(venue: KiwoomVenue) -> None:
    for expiry in ("", "20261321103000", "soon"):
        body = json.dumps({"token": "Bearer T", "return_code": "0", "expires_dt": expiry}).encode()

        assert venue.decode_approval(200, body, NOW) == AccessKey("T", 6 * 3600.0)


def test_a_token_that_has_expired_already_is_no_token(venue: KiwoomVenue) -> None:
    with pytest.raises(Retryable, match="clock"):
        venue.decode_approval(200, sample("token_reply.json"), NOW + datetime.timedelta(days=1))


@pytest.mark.requirement("KEY-01")
@pytest.mark.parametrize("code", ["8001", "8002", "8010", "8020", "8030", "1511"])
def test_wrong_credentials_are_for_the_operator(venue: KiwoomVenue, code: str) -> None:
    body = json.dumps({"return_code": 3, "return_msg": f"인증에 실패했습니다[{code}:SECRET]"}).encode()

    with pytest.raises(Refused, match=code) as caught:
        venue.decode_approval(200, body, NOW)
    assert "SECRET" not in str(caught.value)


def test_the_sample_refusal_of_a_token_is_for_the_operator(venue: KiwoomVenue) -> None:
    with pytest.raises(Refused, match="return_code 3 8001"):
        venue.decode_approval(200, sample("token_error.json"), NOW)


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b'{"return_code":5,"return_msg":"[1700:x]"}'), (429, b""), (500, b"<html>"), (200, b"[]"),
     (200, b'{"return_code":0}'), (200, b'{"token":"T"}'), (503, b'{"return_code":0,"token":"T"}'),
     (200, b'{"return_code":2,"return_msg":"\xff"}'), (200, b'{"return_code":2,"return_msg":"[1999:x]"}')],
)  # fmt: skip
def test_any_other_refusal_of_a_token_may_pass(venue: KiwoomVenue, status: int, body: bytes) -> None:
    with pytest.raises(Retryable, match="token: HTTP"):
        venue.decode_approval(status, body, NOW)


# ---- events for people -----------------------------------------------------------------------------------------------


def test_an_event_is_described_by_the_meaning_of_its_values(venue: KiwoomVenue) -> None:
    def described(name: str) -> dict[str, str]:
        entry = json.loads(sample(name))["data"][0]
        return venue.describe_event("", json.dumps(entry, ensure_ascii=False).encode())

    assert described("real_0C_bbo.json") == {"best_ask": "71300", "best_bid": "71200"}
    assert described("real_0s_key_order.json") == {"operation": "3", "time": "090000", "remaining": "000000"}
    assert described("real_0H_expected.json")["price"] == "71800"
    assert described("real_0A_quote.json")["change"] == "-300"
    vi = described("real_1h_vi.json")
    assert (vi["symbol"], vi["price"], vi["release_time"], vi["vi_kind"]) == ("417450", "7260", "102411", "정적")


def test_a_text_that_is_cut_off_is_not_described(venue: KiwoomVenue) -> None:
    for text in (b"", b'{"type":"0A","values":{"10":"7', b'{"type":"0A","values":[]}', b'{"type":"9Z","values":{}}'):
        assert venue.describe_event("quote", text) == {}


def test_a_session_starts_without_a_memory(venue: KiwoomVenue) -> None:
    venue.on_session_start()

    assert (venue.max_batch, venue.replaces_all, venue.keep_alive, venue.acknowledges) == (100, False, None, True)
