"""What the venue's control frames mean, and how requests are written: on every sample of the protocol description."""

import datetime
import json
from pathlib import Path

import pytest

from daemon.config import Account
from daemon.errors import BadFrame, ConfigError, Refused, Retryable
from daemon.ingest.venues import venue_named
from daemon.ingest.venues.kis import CHANNELS, REPLIES, Channel, Cipher, KisVenue, decrypt_notice
from daemon.ingest.venues.venue import (
    AccessKey,
    Heartbeat,
    Notice,
    Refusal,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
    Subscribed,
    Unknown,
    Unsubscribed,
    Venue,
)
from native_pipeline.parse_kis import KisParser

FRAMES = Path(__file__).parent.parent / "frames" / "kis"
CONTROL = FRAMES / "control"
KEY = "11111111-2222-3333-4444-555555555555"
SAMSUNG = Registration("H0STCNT0", "005930")
ACCOUNT = Account(name="main", venue="kis", app_key="a" * 36, app_secret="s" * 180)

NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
SUCCESS = "SUBSCRIBE SUCCESS"

MEANINGS = {
    "subscribe_success_OPSP0000": Subscribed(SAMSUNG, "OPSP0000", SUCCESS),
    "subscribe_success_overseas": Subscribed(Registration("HDFSCNT0", "DNASAAPL"), "OPSP0000", SUCCESS),
    "subscribe_success_notice_H0STCNI0": Subscribed(Registration("H0STCNI0", "HTSID001"), "OPSP0000", SUCCESS),
    "unsubscribe_success_OPSP0001": Unsubscribed(SAMSUNG, "OPSP0001", "UNSUBSCRIBE SUCCESS"),
    "already_in_subscribe_OPSP0002": Subscribed(SAMSUNG, "OPSP0002", "ALREADY IN SUBSCRIBE"),
    "unsubscribe_not_found_OPSP0003": Unsubscribed(SAMSUNG, "OPSP0003", "UNSUBSCRIBE ERROR(not found!)"),
    "internal_error_OPSP0007": (SAMSUNG, Refusal.RETRY),
    "max_subscribe_over_OPSP0008": (Registration("H0STCNT0", "000660"), Refusal.CAP_REACHED),
    "mci_send_failed_OPSP0009": (Registration("HDFFF020", "SPIZ26"), Refusal.NOT_ENTITLED),
    "invalid_appkey_OPSP0010": SessionFault.CREDENTIAL_REFUSED,
    "invalid_approval_OPSP0011": SessionFault.KEY_EXPIRED,
    "invalid_approval_not_found_OPSP0011": SessionFault.KEY_EXPIRED,
    "invalid_htsid_OPSP0017": (None, Refusal.INVALID),
    "invalid_tr_id_OPSP8991": (None, Refusal.INVALID),
    "invalid_tr_key_OPSP8993": (None, Refusal.INVALID),
    "already_in_use_appkey_OPSP8996": SessionFault.SLOT_HELD,
    "invalid_tr_type_OPSP8997": (None, Refusal.INVALID),
    "tr_key_not_found_OPSP9990": (None, Refusal.INVALID),
    "invalid_json_OPSP9999": (None, Refusal.INVALID),
    "unknown_code_OPSP7777": Unknown(SAMSUNG, "OPSP7777", "SOMETHING NEW"),
    "error_without_header": SessionFault.SLOT_HELD,
}


@pytest.fixture
def venue() -> KisVenue:
    return KisVenue()


@pytest.mark.requirement("SUB-CONF-01", "SUB-CONF-02", "KEY-01")
@pytest.mark.parametrize("name", MEANINGS)
def test_every_reply_of_the_protocol_description_has_its_meaning(venue: KisVenue, name: str) -> None:
    message = venue.decode_control((CONTROL / f"{name}.json").read_bytes())

    match message:
        case RegistrationRefused():
            assert MEANINGS[name] == (message.registration, message.refusal)
        case SessionRefused():
            assert MEANINGS[name] is message.fault
        case _:
            assert MEANINGS[name] == message


def test_no_control_sample_is_left_untested() -> None:
    others = {"approval_error", "approval_reply", "pingpong", "pingpong_with_body"}
    requests = {"request_subscribe", "request_unsubscribe"}

    assert set(MEANINGS) | others | requests == {path.stem for path in CONTROL.glob("*.json")}


@pytest.mark.requirement("KEY-01")
def test_an_invalid_symbol_is_not_mistaken_for_an_expired_key() -> None:
    expired = {code for code, meaning in REPLIES.items() if meaning is SessionFault.KEY_EXPIRED}

    assert expired == {"OPSP0011"}


@pytest.mark.requirement("BUG-001")
def test_already_in_subscribe_is_success_whatever_rt_cd_says(venue: KisVenue) -> None:
    for rt_cd in ('"0"', '"1"', "1", "null"):
        frame = b'{"header":{"tr_id":"H0STCNT0","tr_key":"005930"},"body":{"rt_cd":%s,"msg_cd":"OPSP0002"}}'

        assert venue.decode_control(frame % rt_cd.encode()) == Subscribed(SAMSUNG, "OPSP0002")


def test_the_wording_of_a_reply_decides_nothing(venue: KisVenue) -> None:
    body = b'{"rt_cd":"0","msg_cd":"OPSP0001","msg1":"SUBSCRIBE SUCCESS"}'
    frame = b'{"header":{"tr_id":"H0STCNT0","tr_key":"005930"},"body":%s}' % body

    assert venue.decode_control(frame) == Unsubscribed(SAMSUNG, "OPSP0001", "SUBSCRIBE SUCCESS")


def test_a_success_code_with_a_failure_flag_is_not_success(venue: KisVenue) -> None:
    frame = b'{"header":{"tr_id":"H0STCNT0","tr_key":"005930"},"body":{"rt_cd":"1","msg_cd":"OPSP0000","msg1":"?"}}'

    assert venue.decode_control(frame) == Unknown(SAMSUNG, "OPSP0000", "?")


def test_a_reply_with_korean_text_in_another_encoding_keeps_its_code(venue: KisVenue) -> None:
    text = "ERROR : htsid가잘못되었습니다".encode("cp949")
    frame = b'{"header":{"tr_id":"(null)","tr_key":""},"body":{"rt_cd":"9","msg_cd":"OPSP0017","msg1":"' + text + b'"}}'

    message = venue.decode_control(frame)

    assert isinstance(message, RegistrationRefused)
    assert (message.registration, message.refusal, message.code) == (None, Refusal.INVALID, "OPSP0017")


@pytest.mark.parametrize("name", ["pingpong", "pingpong_with_body"])
def test_a_heartbeat_is_echoed_byte_for_byte(venue: KisVenue, name: str) -> None:
    frame = (CONTROL / f"{name}.json").read_bytes()

    assert venue.decode_control(frame) == Heartbeat(frame, "PINGPONG")


@pytest.mark.parametrize(
    "frame",
    [
        (FRAMES / "malformed" / "truncated_json.json").read_bytes(),
        (FRAMES / "malformed" / "json_array.json").read_bytes(),
        b"{}",
        b'{"header":{"tr_id":"H0STCNT0","tr_key":"005930"}}',
        b'{"header":null,"body":{"rt_cd":"0"}}',
        b'{"body":{"msg_cd":17}}',
        b'{"body":[]}',
        b"[]",
        b"{\xff",
    ],
)
def test_a_control_frame_that_says_nothing_is_a_bad_frame(venue: KisVenue, frame: bytes) -> None:
    with pytest.raises(BadFrame, match="control frame"):
        venue.decode_control(frame)


@pytest.mark.parametrize(
    ("action", "sample"), [("subscribe", "request_subscribe"), ("unsubscribe", "request_unsubscribe")]
)
def test_requests_are_written_as_the_venue_documents_them(venue: KisVenue, action: str, sample: str) -> None:
    encode = venue.encode_subscribe if action == "subscribe" else venue.encode_unsubscribe

    assert encode(KEY, [SAMSUNG]) == (CONTROL / f"{sample}.json").read_bytes().strip()


@pytest.mark.requirement("KEY-01")
def test_the_approval_request_names_the_secret_secretkey_and_does_not_show_it(venue: KisVenue) -> None:
    request = venue.approval_request(ACCOUNT)

    assert request.url == "https://openapi.koreainvestment.com:9443/oauth2/Approval"
    assert json.loads(request.body) == {
        "grant_type": "client_credentials", "appkey": "a" * 36, "secretkey": "s" * 180,
    }  # fmt: skip
    assert "sss" not in repr(request)


@pytest.mark.requirement("KEY-01")
def test_an_approval_key_of_any_length_is_accepted(venue: KisVenue) -> None:
    reply = (CONTROL / "approval_reply.json").read_bytes()

    assert venue.decode_approval(200, reply, NOW) == AccessKey(KEY, valid_for_s=86_400)
    assert venue.decode_approval(200, json.dumps({"approval_key": "k" * 286}).encode(), NOW).key == "k" * 286


@pytest.mark.requirement("KEY-01")
def test_wrong_credentials_are_refused_for_good_and_trouble_is_retried(venue: KisVenue) -> None:
    with pytest.raises(Refused, match="EGW00103"):
        venue.decode_approval(403, (CONTROL / "approval_error.json").read_bytes(), NOW)
    with pytest.raises(Retryable, match="EGW00201"):
        venue.decode_approval(500, b'{"error_code":"EGW00201","error_description":"too many"}', NOW)
    with pytest.raises(Retryable, match="HTTP 502"):
        venue.decode_approval(502, b"<html>", NOW)
    with pytest.raises(Retryable, match="HTTP 200"):
        venue.decode_approval(200, b"{}", NOW)


@pytest.mark.parametrize(
    ("configured", "url"),
    [
        ("", "ws://ops.koreainvestment.com:21000/tryitout"),
        ("ws://127.0.0.1:9000", "ws://127.0.0.1:9000/tryitout"),
        ("ws://127.0.0.1:9000/", "ws://127.0.0.1:9000/"),
        ("ws://127.0.0.1:9000/H0STCNT0", "ws://127.0.0.1:9000/H0STCNT0"),
    ],
)
def test_the_path_of_the_websocket_is_the_accounts_or_the_venues_default(
    venue: KisVenue, configured: str, url: str
) -> None:
    assert venue.websocket_url(Account(name="main", venue="kis", ws_url=configured)) == url


# ---- registrations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "kind", "exchange", "symbol", "tr", "stored"),
    [
        ("kr", "trade", "", "005930", "H0STCNT0", "005930"),
        ("kr", "orderbook", "", "005930", "H0STASP0", "005930"),
        ("kr", "expected", "", "005930", "H0STANC0", "005930"),
        ("kr", "status", "", "005930", "H0STMKO0", "005930"),
        ("kr", "program", "", "005930", "H0STPGM0", "005930"),
        ("kr", "trade", "nxt", "005930", "H0NXCNT0", "005930"),
        ("kr", "orderbook", "nxt", "005930", "H0NXASP0", "005930"),
        ("kr", "status", "nxt", "005930", "H0NXMKO0", "005930"),
        ("kr", "trade", "sor", "005930", "H0UNCNT0", "005930"),
        ("kr", "orderbook", "sor", "005930", "H0UNASP0", "005930"),
        ("kr", "program", "sor", "005930", "H0UNPGM0", "005930"),
        ("kr", "trade", "", "0000D0", "H0STCNT0", "0000D0"),
        ("kr", "trade", "", "Q500001", "H0STCNT0", "Q500001"),
        ("kr", "trade", "", "105560", "H0STCNT0", "105560"),  # begins like a future of old code
        ("kr", "nav", "", "069500", "H0STNAV0", "069500"),
        ("kr", "index", "", "0001", "H0UPCNT0", "0001"),
        ("kr", "expected", "", "2001", "H0UPANC0", "2001"),
        ("kr", "trade", "", "101W09", "H0IFCNT0", "101W09"),
        ("kr", "orderbook", "", "A01612", "H0IFASP0", "A01612"),
        ("kr", "trade", "", "A05608", "H0IFCNT0", "A05608"),
        ("kr", "trade", "", "201W08427", "H0IOCNT0", "201W08427"),
        ("kr", "orderbook", "", "B01610A51", "H0IOASP0", "B01610A51"),
        ("kr", "trade", "", "H0MFCNT0:101W9000", "H0MFCNT0", "101W9000"),
        ("kr", "trade", "", "H0EWCNT0:57LA24", "H0EWCNT0", "57LA24"),
        ("kr", "trade", "nxt", "H0NXCNT0:005930", "H0NXCNT0", "005930"),
        ("us", "trade", "", "DNASAAPL", "HDFSCNT0", "AAPL"),
        ("us", "orderbook", "", "DNYSIBM", "HDFSASP0", "IBM"),
        ("us", "trade", "", "DAMSSPY", "HDFSCNT0", "SPY"),
        ("us", "trade", "", "RBAQAAPL", "HDFSCNT0", "AAPL"),
        ("us", "orderbook", "", "RBAYBRK/B", "HDFSASP0", "BRK/B"),
        ("us", "orderbook", "", "DHKS00003", "HDFSASP1", "00003"),
        ("us", "trade", "", "DTSE7203", "HDFSCNT0", "7203"),
        ("us", "trade", "", "HDFFF020:OESH27 C3900", "HDFFF020", "OESH27 C3900"),
        ("us", "orderbook", "", "HDFSASP0:DNASAAPL", "HDFSASP0", "AAPL"),
    ],
)
def test_a_symbol_is_registered_with_the_tr_of_its_form(
    venue: KisVenue, market: str, kind: str, exchange: str, symbol: str, tr: str, stored: str
) -> None:
    registration = venue.registration(market, kind, exchange, symbol)

    assert registration == Registration(tr, symbol.rpartition(":")[2])
    assert venue.record_symbol(registration) == stored


def test_every_tr_can_be_named(venue: KisVenue) -> None:
    for tr, (market, kind, exchange) in CHANNELS.items():
        key = "DHKS00003" if tr == "HDFSASP1" else "DNASAAPL" if tr.startswith("HDFS") else "X1"

        assert venue.registration(market, kind, exchange, f"{tr}:{key}") == Registration(tr, key)


@pytest.mark.parametrize(
    ("market", "kind", "exchange", "symbol", "message"),
    [
        ("us", "trade", "", "AAPL", r"'AAPL' is no symbol of kis in market 'us'; expected .*DNAS, DNYS, DAMS .*RBAQ"),
        ("us", "trade", "", "NASAAPL", "DNAS"),
        ("us", "trade", "", "RNASAAPL", "DNAS"),
        ("us", "trade", "", "DNAS", "DNAS"),
        ("us", "expected", "", "DNASAAPL", "no expected of 'DNASAAPL'; it has: trade, orderbook"),
        ("us", "trade", "nxt", "DNASAAPL", "no trade nxt of"),
        ("us", "trade", "", "DNASAA^PL", "printable"),
        ("us", "trade", "", 'HDFFF020:A"B', "printable"),
        ("us", "trade", "", "HDFFF020:", "printable"),
        ("us", "trade", "", "HDFSCNT0:AAPL", "'AAPL' is no key of HDFSCNT0"),
        ("us", "orderbook", "", "HDFSASP0:DHKS00003", "no key of HDFSASP0"),
        ("kr", "trade", "", "DNASAAPL", "expected a stock"),
        ("kr", "trade", "", "5930", "no trade of '5930'; it has: index, expected"),
        ("kr", "index", "", "005930", "no index of '005930'"),
        ("kr", "nav", "nxt", "069500", "no nav nxt"),
        ("kr", "trade", "", "57LA24", "or TR:KEY"),
        ("kr", "trade", "", "H0XXXXX0:1", "'H0XXXXX0' in 'H0XXXXX0:1' is no TR of kis"),
        ("kr", "orderbook", "", "H0IFCNT0:A01612", "is market 'kr', kind 'trade', exchange ''"),
        ("kr", "trade", "", "H0NXCNT0:005930", "exchange 'nxt'"),
        ("us", "trade", "", "H0STCNT0:005930", "market 'kr'"),
        ("crypto", "trade", "", "KRW-BTC", "kis has no 'crypto'; it has: kr, us"),
        ("kr", "trade", "", "", "no symbol of kis"),
    ],
)
def test_a_symbol_that_the_venue_does_not_have_is_a_config_error(
    venue: KisVenue, market: str, kind: str, exchange: str, symbol: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        venue.registration(market, kind, exchange, symbol)


def test_the_markets_of_the_forms_are_those_of_the_trs(venue: KisVenue) -> None:
    assert Channel(*("kr", "trade", "")) == CHANNELS[venue.registration("kr", "trade", "", "005930").channel]


# ---- order notices ---------------------------------------------------------------------------------------------------

NOTICE = (FRAMES / "data" / "H0STCNI0_encrypted.txt").read_bytes()
NOTICE_ENTRY = next(
    entry
    for entry in json.loads((FRAMES / "manifest.json").read_text())
    if entry["file"] == "data/H0STCNI0_encrypted.txt"
)
CIPHER = Cipher(NOTICE_ENTRY["key"].encode(), NOTICE_ENTRY["iv"].encode())
NOTICE_REPLY = (CONTROL / "subscribe_success_notice_H0STCNI0.json").read_bytes()


def test_a_notice_is_decrypted_with_the_key_and_iv_of_the_reply() -> None:
    fields = decrypt_notice(NOTICE.split(b"|")[3], CIPHER)

    assert fields == tuple(NOTICE_ENTRY["plaintext"].split("^"))
    assert len(fields) == 26


def test_a_notice_is_counted_and_its_contents_go_nowhere(venue: KisVenue) -> None:
    venue.decode_control(NOTICE_REPLY)

    assert venue.decode_control(NOTICE) == Notice("H0STCNI0", "")


def test_the_key_of_a_notice_is_that_of_its_tr_and_of_this_session(venue: KisVenue) -> None:
    with pytest.raises(BadFrame, match="no key for H0STCNI0 was received in this session"):
        venue.decode_control(NOTICE)
    venue.decode_control(NOTICE_REPLY)
    with pytest.raises(BadFrame, match="no key for H0GSCNI0"):
        venue.decode_control(NOTICE.replace(b"H0STCNI0", b"H0GSCNI0"))

    venue.on_session_start()

    with pytest.raises(BadFrame, match="no key for H0STCNI0"):
        venue.decode_control(NOTICE)
    assert venue.decode_control(NOTICE_REPLY) == MEANINGS["subscribe_success_notice_H0STCNI0"]
    assert venue.decode_control(NOTICE) == Notice("H0STCNI0", "")


@pytest.mark.parametrize(
    "frame",
    [
        (FRAMES / "malformed" / "flag1_bad_base64.txt").read_bytes(),
        b"1|H0STCNI0|001|",
        b"1|H0STCNI0|001|AAAA",
        NOTICE[:-8],
        NOTICE[:-4] + b"AAA=",
        b"1|H0STCNI0|001",
        b"1|H0STCNT0|001|AAAA",
        b"1|\xff|001|AAAA",
    ],
)
def test_an_encrypted_frame_that_cannot_be_decrypted_is_a_bad_frame(venue: KisVenue, frame: bytes) -> None:
    venue.decode_control(NOTICE_REPLY)

    with pytest.raises(BadFrame, match="encrypted frame") as caught:
        venue.decode_control(frame)

    assert "HTSID001" not in str(caught.value)


def test_another_key_does_not_decrypt_a_notice() -> None:
    for cipher in (Cipher(b"x" * 32, CIPHER.iv), Cipher(CIPHER.key[::-1], CIPHER.iv)):
        with pytest.raises(BadFrame, match="cannot be decrypted"):
            decrypt_notice(NOTICE.split(b"|")[3], cipher)


def test_a_reply_without_a_usable_key_keeps_the_one_before(venue: KisVenue) -> None:
    venue.decode_control(NOTICE_REPLY)
    for output in (b'{"iv":"","key":""}', b'{"iv":"0123456789abcdef"}', b"{}", b"null"):
        head, _, _ = NOTICE_REPLY.partition(b'"output":')
        venue.decode_control(head + b'"output":' + output + b"}}")

    assert venue.decode_control(NOTICE) == Notice("H0STCNI0", "")


@pytest.mark.requirement("KEY-01")
@pytest.mark.parametrize("code", ["OPSP0000", "OPSP0008", "OPSP8991", "OPSP7777"])
def test_a_text_that_may_be_logged_quotes_no_key(venue: KisVenue, code: str) -> None:
    header = b'{"header":{"tr_id":"H0STCNT0","tr_key":"005930"},"body":{"rt_cd":"0","msg_cd":"%s","msg1":"SAYS %s"}}'

    shown = repr(venue.decode_control(header % (code.encode(), KEY.encode())))

    assert KEY not in shown
    assert "SAYS ..." in shown
    assert "abcdef" not in repr(CIPHER)


def test_the_registry_makes_the_venue_and_its_parser() -> None:
    venue = venue_named("kis")

    assert isinstance(venue, KisVenue)
    assert venue_named("kis") is not venue
    parser = venue.make_parser("kr", 3)
    assert isinstance(parser, KisParser)
    assert (parser.connection, parser.market, parser.hands_over_encrypted) == (3, 0, False)
    venue.on_session_start()
    session_parser = venue.make_parser("kr", 3)
    assert isinstance(session_parser, KisParser)
    assert session_parser.hands_over_encrypted


def test_other_layouts_are_chosen_by_the_account_and_an_unknown_one_is_named() -> None:
    venue = KisVenue()
    venue.use_layouts(("H0UPANC0:wide",))
    venue.make_parser("kr", 0)

    with pytest.raises(ConfigError, match="H0UPANC0:narrowest"):
        KisVenue().use_layouts(("H0UPANC0:narrowest",))


def test_layouts_that_the_operator_chose_reach_the_parser() -> None:
    with pytest.raises(ValueError, match="H0ZFASP0:none"):
        KisVenue(["H0ZFASP0:none"]).make_parser("kr", 0)

    KisVenue(["H0ZFASP0:appended"]).make_parser("kr", 0)


@pytest.mark.requirement("ARCH-01")
def test_the_venue_is_a_venue() -> None:
    venue: Venue = KisVenue()

    assert (venue.needs_login, venue.needs_approval_key, venue.acknowledges, venue.replaces_all) == (
        False,
        True,
        True,
        False,
    )
    assert (venue.max_batch, venue.keep_alive, venue.decode_market) == (1, None, "kr")
