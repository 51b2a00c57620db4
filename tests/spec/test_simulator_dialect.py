"""Requests are checked in the venue's order, and replies have its exact words."""

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator import dialect
from daemon.simulator.dialect import Code, Refusal, Request

KEY = "11111111-2222-3333-4444-555555555555"
IV, SECRET = "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz012345"


def request(**changes: Any) -> str:
    """A good request, with changes by dotted path; None removes."""
    tree: dict[str, Any] = {
        "header": {"approval_key": KEY, "custtype": "P", "tr_type": "1", "content-type": "utf-8"},
        "body": {"input": {"tr_id": "H0STCNT0", "tr_key": "005930"}},
    }
    for path, value in changes.items():
        *parents, name = path.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[name]
        else:
            node[name] = value
    return json.dumps(tree)


def test_a_good_request_is_read() -> None:
    assert Request(KEY, True, "H0STCNT0", "005930") == dialect.parse_request(request())
    assert Request(KEY, False, "H0STASP0", "Q500001") == dialect.parse_request(
        request(header__tr_type="2", body__input__tr_id="H0STASP0", body__input__tr_key="Q500001")
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.INVALID_JSON),
        ("{", Code.INVALID_JSON),
        ("[1]", Code.INVALID_JSON),
        (b"\xff\xfe", Code.INVALID_JSON),
        (request(header=None), Code.HEADER_NOT_FOUND),
        (request(header__custtype=None), Code.CUSTTYPE_NOT_FOUND),
        (request(header__custtype="X"), Code.INVALID_CUSTTYPE),
        (request(header__tr_type="0"), Code.INVALID_TR_TYPE),
        (request(header__tr_type=1), Code.INVALID_TR_TYPE),
        (request(header__tr_type=None), Code.INVALID_TR_TYPE),
        (request(body=None), Code.BODY_NOT_FOUND),
        (request(body__input=None), Code.INPUT_NOT_FOUND),
        (request(body__input__tr_key=None), Code.TR_KEY_NOT_FOUND),
        (request(body__input__tr_id="H0STXXX0"), Code.INVALID_TR_ID),
        (request(body__input__tr_id=None), Code.INVALID_TR_ID),
        (request(body__input__tr_id=["H0STCNT0"]), Code.INVALID_TR_ID),
        (request(body__input__tr_key="59"), Code.INVALID_TR_KEY),
        (request(body__input__tr_key="DNASAAPL"), Code.INVALID_TR_KEY),
        (request(body__input__tr_key=5930), Code.INVALID_TR_KEY),
    ],
)
def test_a_bad_request_is_refused_with_the_code_of_what_is_wrong(text: str | bytes, code: Code) -> None:
    refusal = dialect.parse_request(text)

    assert isinstance(refusal, Refusal)
    assert (code, "" if code is Code.INVALID_TR_KEY else "(null)", "") == (
        refusal.code,
        refusal.tr_id,
        refusal.tr_key,
    )


@pytest.mark.parametrize(
    ("code", "tr", "expected"),
    [
        (
            Code.SUBSCRIBED,
            ("H0STCNT0", "005930"),
            '{"header":{"tr_id":"H0STCNT0","tr_key":"005930","encrypt":"N"},"body":{"rt_cd":"0","msg_cd":"OPSP0000",'
            f'"msg1":"SUBSCRIBE SUCCESS","output":{{"iv":"{IV}","key":"{SECRET}"}}}}}}',
        ),
        (
            Code.UNSUBSCRIBED,
            ("H0STCNT0", "005930"),
            '{"header":{"tr_id":"H0STCNT0","tr_key":"005930","encrypt":"N"},"body":{"rt_cd":"0","msg_cd":"OPSP0001",'
            f'"msg1":"UNSUBSCRIBE SUCCESS","output":{{"iv":"{IV}","key":"{SECRET}"}}}}}}',
        ),
        (
            Code.NOT_SUBSCRIBED,
            ("H0STCNT0", "005930"),
            '{"header":{"tr_id":"H0STCNT0","tr_key":"005930","encrypt":"N"},"body":{"rt_cd":"1","msg_cd":"OPSP0003",'
            '"msg1":"UNSUBSCRIBE ERROR(not found!)"}}',
        ),
        (
            Code.INVALID_APPROVAL,
            ("H0STCNT0", "005930"),
            '{"header":{"tr_id":"H0STCNT0","tr_key":"005930","encrypt":"N"},"body":{"rt_cd":"1","msg_cd":"OPSP0011",'
            f'"msg1":"invalid approval : {KEY}"}}}}',
        ),
        (
            Code.APP_KEY_IN_USE,
            (),
            '{"header":{"tr_id":"(null)","tr_key":"","encrypt":"N"},"body":{"rt_cd":"9","msg_cd":"OPSP8996",'
            '"msg1":"ALREADY IN USE appkey"}}',
        ),
        (
            "OPSP7777",
            ("H0STCNT0", "005930"),
            '{"header":{"tr_id":"H0STCNT0","tr_key":"005930","encrypt":"N"},"body":{"rt_cd":"1","msg_cd":"OPSP7777",'
            '"msg1":"SOMETHING NEW"}}',
        ),
    ],
)
def test_replies_are_byte_for_byte_those_of_the_venue(code: str, tr: tuple[str, ...], expected: str) -> None:
    assert expected == dialect.reply(code, *tr, detail=KEY, iv=IV, key=SECRET)


def test_the_heartbeat_and_its_echo_are_recognised() -> None:
    text = dialect.pingpong("20261120103020")

    assert text == '{"header":{"tr_id":"PINGPONG","datetime":"20261120103020"}}'
    assert dialect.is_pingpong(text.encode())
    assert dialect.is_pingpong(b'{"header": {"tr_id": "PINGPONG", "datetime": "20261120103040"}, "body": {}}')
    assert not dialect.is_pingpong(request().encode())


def test_a_data_frame_counts_its_records_in_three_digits() -> None:
    assert dialect.data_frame("H0STCNT0", ["a^b", "c^d"]) == "0|H0STCNT0|002|a^b^c^d"


@pytest.mark.requirement("ARCH-01")
def test_the_simulator_shares_no_code_with_the_daemons_parsers() -> None:
    for source in Path(dialect.__file__).parent.glob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert "native_pipeline" not in text, source.name
        assert "daemon.ingest" not in text, source.name
