"""What the venue's control frames mean, and how requests are written: on every sample of the protocol description."""

import json
from pathlib import Path

import pytest

from daemon.config import Account
from daemon.errors import BadFrame, Refused, Retryable
from daemon.ingest.venues import venue_named
from daemon.ingest.venues.kis import REPLIES, KisVenue
from daemon.ingest.venues.venue import (
    Heartbeat,
    Refusal,
    Registration,
    RegistrationRefused,
    SessionFault,
    SessionRefused,
    Subscribed,
    Unknown,
    Unsubscribed,
)

FRAMES = Path(__file__).parent.parent / "frames" / "kis"
CONTROL = FRAMES / "control"
KEY = "11111111-2222-3333-4444-555555555555"
SAMSUNG = Registration("H0STCNT0", "005930")
ACCOUNT = Account(name="main", venue="kis", app_key="a" * 36, app_secret="s" * 180)

MEANINGS = {
    "subscribe_success_OPSP0000": Subscribed(SAMSUNG, "OPSP0000"),
    "subscribe_success_overseas": Subscribed(Registration("HDFSCNT0", "DNASAAPL"), "OPSP0000"),
    "subscribe_success_notice_H0STCNI0": Subscribed(Registration("H0STCNI0", "HTSID001"), "OPSP0000"),
    "unsubscribe_success_OPSP0001": Unsubscribed(SAMSUNG, "OPSP0001"),
    "already_in_subscribe_OPSP0002": Subscribed(SAMSUNG, "OPSP0002"),
    "unsubscribe_not_found_OPSP0003": Unsubscribed(SAMSUNG, "OPSP0003"),
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

    assert venue.decode_control(frame) == Unsubscribed(SAMSUNG, "OPSP0001")


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

    assert venue.decode_control(frame) == Heartbeat(frame)


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

    assert encode(KEY, SAMSUNG) == (CONTROL / f"{sample}.json").read_bytes().strip()


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
    assert venue.decode_approval(200, (CONTROL / "approval_reply.json").read_bytes()) == KEY
    assert venue.decode_approval(200, json.dumps({"approval_key": "k" * 286}).encode()) == "k" * 286


@pytest.mark.requirement("KEY-01")
def test_wrong_credentials_are_refused_for_good_and_trouble_is_retried(venue: KisVenue) -> None:
    with pytest.raises(Refused, match="EGW00103"):
        venue.decode_approval(403, (CONTROL / "approval_error.json").read_bytes())
    with pytest.raises(Retryable, match="EGW00201"):
        venue.decode_approval(500, b'{"error_code":"EGW00201","error_description":"too many"}')
    with pytest.raises(Retryable, match="HTTP 502"):
        venue.decode_approval(502, b"<html>")
    with pytest.raises(Retryable, match="HTTP 200"):
        venue.decode_approval(200, b"{}")


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


def test_channels_exist_for_the_korean_market_only(venue: KisVenue) -> None:
    assert (venue.channel("kr", "trade"), venue.channel("kr", "orderbook")) == ("H0STCNT0", "H0STASP0")
    assert venue.channel("crypto", "trade") is None


def test_the_registry_makes_the_venue_and_its_parser() -> None:
    venue = venue_named("kis")

    assert isinstance(venue, KisVenue)
    assert venue.make_parser("kr", 3).connection == 3
