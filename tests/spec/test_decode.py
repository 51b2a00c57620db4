"""`sise decode`: one frame a line in, what the daemon would store out, exact to the digit."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.decode import decode_frames, today_in_korea, write_json_lines
from daemon.errors import ConfigError
from daemon.ingest.venues import VENUE_CLASSES

pytestmark = pytest.mark.requirement("SCH-01")

FRAMES = Path(__file__).parents[1] / "frames" / "kis"
KIWOOM_FRAMES = FRAMES.parent / "kiwoom"
KIWOOM_MANIFEST: list[dict[str, Any]] = json.loads((KIWOOM_FRAMES / "manifest.json").read_text(encoding="utf-8"))
MANIFEST: list[dict[str, Any]] = json.loads((FRAMES / "manifest.json").read_text(encoding="utf-8"))
PARSED_TRS = ("H0STCNT0", "H0STASP0")
DATE = datetime.date(2026, 11, 20)
# key of a decoded trade -> role in the manifest
ROLES = {
    "price": "price",
    "volume": "size",
    "cum_volume": "cum_volume",
    "ask": "best_ask",
    "bid": "best_bid",
    "change_rate": "change_rate",
}


def decoded(*lines: bytes, date: datetime.date = DATE, venue: str = "kis") -> list[str]:
    out = io.BytesIO()
    write_json_lines(decode_frames(venue, date, lines), out)
    text = out.getvalue().decode()
    assert text.endswith("\n")
    return text.splitlines()


def objects(*lines: bytes, date: datetime.date = DATE, venue: str = "kis") -> list[dict[str, Any]]:
    return [json.loads(line, parse_float=str) for line in decoded(*lines, date=date, venue=venue)]


def sample(name: str) -> bytes:
    return (FRAMES / name).read_bytes()


def entries(*classes: str, manifest: list[dict[str, Any]] = MANIFEST) -> list[Any]:
    return [pytest.param(entry, id=entry["file"]) for entry in manifest if entry["cls"] in classes]


def test_a_trade_is_shown_with_the_digits_that_the_venue_sent() -> None:
    (line,) = decoded(sample("data/H0STCNT0_down_limit.txt"))

    assert line == (
        '{"kind":"trade","venue":"kis","market":"kr","symbol":"000660","time":"2026-11-20T14:45:01+09:00",'
        '"price":128800,"volume":900,"cum_volume":9123111,"ask":128900,"bid":128800,"change_rate":-30.00,"side":"sell"}'
    )


def test_a_thin_book_is_shown_with_ten_levels_a_side() -> None:
    (line,) = decoded(sample("data/H0STASP0_thin_book_3_levels.txt"))

    absent = ",".join(["[0,0]"] * 7)
    assert line == (
        '{"kind":"orderbook","venue":"kis","market":"kr","symbol":"010580","time":"2026-11-20T10:15:00+09:00",'
        f'"asks":[[1530,1001],[1535,2002],[1540,3003],{absent}],"bids":[[1525,2001],[1520,4002],[1515,6003],{absent}]}}'
    )


@pytest.mark.parametrize("entry", [p for p in entries("data") if p.values[0]["tr"] in PARSED_TRS])
def test_every_data_sample_is_decoded_to_the_values_of_its_manifest(entry: dict[str, Any]) -> None:
    found = objects(sample(entry["file"]))

    assert len(found) == entry["records"]
    for record, expected in zip(found, entry["expect"], strict=True):
        clock = expected["time"]
        assert record["symbol"] == expected["symbol"]
        assert record["time"] == f"2026-11-20T{clock[:2]}:{clock[2:4]}:{clock[4:]}+09:00"
        if record["kind"] == "trade":
            for key, role in ROLES.items():
                assert str(record[key]) == expected[role]
            assert record["side"] == {"1": "buy", "5": "sell"}[expected["side"]]
        else:
            for side in ("ask", "bid"):
                pairs = zip(expected[f"{side}_price"], expected[f"{side}_size"], strict=True)
                assert record[f"{side}s"] == [[int(price), int(size)] for price, size in pairs]


@pytest.mark.parametrize(
    "entry", [p for p in entries("malformed") if p.values[0]["expect"] in ("dead_letter", "dead_letter_record")]
)
def test_every_malformed_sample_is_quarantined_with_a_reason(entry: dict[str, Any]) -> None:
    found = objects(sample(entry["file"]))

    quarantined = [record for record in found if record["kind"] == "quarantine"]
    assert len(quarantined) == 1
    assert set(quarantined[0]) == {"kind", "reason", "frame"}
    assert len(quarantined[0]["reason"]) > 5
    assert len(found) == (3 if "multi_one_bad" in entry["file"] else 1)


@pytest.mark.parametrize("entry", entries("control"))
def test_a_control_frame_is_shown_with_its_code_and_message(entry: dict[str, Any]) -> None:
    frame = sample(entry["file"])
    body = json.loads(frame).get("body") or {}

    (record,) = objects(frame)

    assert record == {"kind": "control", "code": body.get("msg_cd", "PINGPONG"), "message": body.get("msg1", "")}


@pytest.mark.parametrize(
    "frame",
    [
        b"{",
        b"[1,2,3]",
        b"{}",
        b'{"body":{}}',
        b'{"body":null}',
        b'{"header":{"tr_id":1}}',
        b'{"body":{"msg_cd":""}}',
        b"{} x",
    ],
)
def test_json_that_is_not_a_control_message_is_quarantined(frame: bytes) -> None:
    (record,) = objects(frame)

    assert record == {
        "kind": "quarantine",
        "reason": "control frame is not the expected JSON object",
        "frame": frame.decode(),
    }


def test_a_message_in_another_encoding_does_not_cost_its_code() -> None:
    frame = b'{"body":{"rt_cd":"9","msg_cd":"OPSP0017","msg1":"\xc0\xdf\xb8\xf8"}}'

    assert objects(frame)[0]["code"] == "OPSP0017"


def test_flags_are_named_only_where_there_are_any() -> None:
    names = ["malformed/crossed_book.txt", "data/H0STASP0_preopen_expected.txt", "data/H0STASP0_single.txt"]

    found = objects(*map(sample, names))

    assert [record.get("flags") for record in found] == [["crossed"], ["auction"], None]


def test_an_absent_change_rate_and_an_unknown_side_are_null() -> None:
    fields = sample("data/H0STCNT0_single.txt").split(b"^")
    fields[5] = fields[21] = b""

    (record,) = objects(b"^".join(fields))

    assert (record["change_rate"], record["side"]) == (None, None)


def test_bytes_that_are_not_utf8_are_shown_as_escapes() -> None:
    (record,) = objects(b"\xff?")

    assert record["frame"] == "\\xff?"


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_one_line_break_is_not_part_of_the_frame(ending: bytes) -> None:
    frame = sample("malformed/unknown_flag.txt")

    (record,) = objects(frame + ending)

    assert record["frame"] == frame.decode()


def test_only_one_line_break_is_taken_off() -> None:
    (record,) = objects(b"?\n\n")

    assert record["frame"] == "?\n"


def test_no_input_and_an_empty_line_are_one_empty_frame_each() -> None:
    empty = {"kind": "quarantine", "reason": "empty frame", "frame": ""}

    assert objects() == [empty]
    assert objects(b"\n", b"") == [empty, empty]


def test_records_come_in_the_order_of_the_lines() -> None:
    names = ["data/H0STCNT0_multi2_two_symbols.txt", "control/pingpong.json", "data/H0STASP0_single.txt"]

    found = objects(*[sample(name) + b"\n" for name in names])

    assert [record["kind"] for record in found] == ["trade", "trade", "control", "orderbook"]


def test_a_book_is_dated_by_the_given_day_whatever_its_time() -> None:
    fields = sample("data/H0STASP0_single.txt").split(b"^")
    lines = [b"^".join([fields[0], clock, *fields[2:]]) for clock in (b"000000", b"235959")]

    assert [record["time"] for record in objects(*lines, date=datetime.date(2024, 2, 29))] == [
        "2024-02-29T00:00:00+09:00",
        "2024-02-29T23:59:59+09:00",
    ]


def test_a_frame_of_half_a_mebibyte_is_shown_whole() -> None:
    frame = b"?" * (512 << 10)

    (record,) = objects(frame)

    assert record["frame"] == frame.decode()
    assert "flags" not in record


def test_a_venue_without_a_parser_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="--venue: 'nyse'"):
        decode_frames("nyse", DATE, [])


def test_today_is_the_date_in_korea() -> None:
    before_midnight = datetime.datetime(2026, 11, 20, 14, 59, 59, tzinfo=datetime.UTC)

    assert today_in_korea(before_midnight) == datetime.date(2026, 11, 20)
    assert today_in_korea(before_midnight + datetime.timedelta(seconds=1)) == datetime.date(2026, 11, 21)


EVENT_KINDS = {
    "ANC0": "expected",
    "OAC0": "expected",
    "MKO0": "status",
    "UPCNT0": "index",
    "NAV0": "nav",
    "PGM0": "program",
}


@pytest.mark.parametrize(
    "entry", [p for p in entries("data") if any(p.values[0]["tr"].endswith(tail) for tail in EVENT_KINDS)]
)
def test_every_event_sample_is_described_by_the_values_of_its_manifest(entry: dict[str, Any]) -> None:
    found = objects(sample(entry["file"]))

    assert {record["kind"] for record in found} == {
        kind for tail, kind in EVENT_KINDS.items() if entry["tr"].endswith(tail)
    }
    assert all(record["fields"]["symbol"] == record["symbol"] for record in found)
    for record, expected in zip(found, entry.get("expect", []), strict="expect" in entry):
        assert {name: record["fields"].get(name) for name in expected} == expected


# ---- every venue -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("venue", VENUE_CLASSES)
def test_every_venue_of_the_registry_can_be_decoded(venue: str) -> None:
    assert objects(b"", venue=venue) == [{"kind": "quarantine", "reason": "empty frame", "frame": ""}]


def test_a_trade_that_is_repeated_is_shown_as_often_as_it_comes() -> None:
    frame = sample("data/H0STCNT0_single.txt")

    assert len(objects(frame, frame)) == 2


# what a kiwoom control sample is, in the words of its manifest -> code and text that are shown
KIWOOM_CONTROL = {
    "login_ok": ("0", ""),
    "login_fail": ("805004", "토큰 인증에 실패했습니다 [CODE=8005, MESSAGE=Token이 유효하지 않습니다]"),
    "ping": ("PING", ""),
    "reg_ok": ("0", ""),
    "reg_error": ("1", "등록 종목수 초과"),
    "remove_ok": ("0", ""),
}


@pytest.mark.parametrize("entry", entries("control", manifest=KIWOOM_MANIFEST))
def test_a_kiwoom_control_message_is_shown_with_its_code_and_text(entry: dict[str, Any]) -> None:
    frame = (KIWOOM_FRAMES / entry["file"]).read_bytes()
    said = json.loads(frame)
    code, message = KIWOOM_CONTROL.get(entry["expect"]) or (said["code"], said["message"])

    assert objects(frame, venue="kiwoom") == [{"kind": "control", "code": code, "message": message}]


@pytest.mark.parametrize("entry", entries("data", manifest=KIWOOM_MANIFEST))
def test_a_kiwoom_data_sample_is_decoded_to_the_values_of_its_manifest(entry: dict[str, Any]) -> None:
    frame = (KIWOOM_FRAMES / entry["file"]).read_bytes()
    sent = json.loads(frame)["data"]

    found = objects(frame, venue="kiwoom")

    kinds = {"0B": "trade", "0D": "orderbook", "0C": "quote", "0A": "quote", "0H": "expected", "0s": "status"}
    assert [record["kind"] for record in found] == [kinds.get(one["type"], "status") for one in sent]
    assert [record["symbol"] for record in found] == [one["item"].removesuffix("_AL") for one in sent]
    if "expect" not in entry:
        return
    (record,) = found
    expected = entry["expect"]
    clock = expected["time"]
    assert record["time"] == f"2026-11-20T{clock[:2]}:{clock[2:4]}:{clock[4:]}+09:00"
    if record["kind"] == "trade":
        shown = {"symbol": record["symbol"], "price": record["price"], "size": record["volume"], "time": clock}
        shown |= {"side": record["side"], "cum_volume": record["cum_volume"]}
    else:
        shown = {"symbol": record["symbol"], "time": clock}
        for side in ("ask", "bid"):
            shown[f"best_{side}"], shown[f"best_{side}_size"] = record[f"{side}s"][0]
    assert {key: str(value) for key, value in shown.items()} == expected


@pytest.mark.parametrize("entry", entries("malformed", manifest=KIWOOM_MANIFEST))
def test_a_malformed_kiwoom_sample_has_the_disposition_of_its_manifest(entry: dict[str, Any]) -> None:
    frame = (KIWOOM_FRAMES / entry["file"]).read_bytes()

    (record,) = objects(frame, venue="kiwoom")

    if entry["expect"] == "data_lenient":
        assert (record["kind"], record["symbol"], record["price"]) == ("trade", "005930", 71200)
    else:
        assert (record["kind"], record["frame"]) == ("quarantine", frame.decode())


def test_the_exchange_is_shown_where_it_is_not_the_main_one() -> None:
    frame = (KIWOOM_FRAMES / "real_0B_buy_and_second_symbol.json").read_bytes()

    found = objects(frame, frame.replace(b"_AL", b"_NX"), venue="kiwoom")

    assert [record.get("exchange") for record in found] == [None, "sor", None, "nxt"]
    assert all("flags" not in record for record in found)


def test_an_event_is_shown_with_its_named_values_and_its_own_text() -> None:
    (line,) = decoded((KIWOOM_FRAMES / "real_0C_bbo.json").read_bytes(), venue="kiwoom")

    assert line == (
        '{"kind":"quote","venue":"kiwoom","market":"kr","symbol":"005930","time":"2026-11-20T12:00:00+09:00",'
        '"price":null,"volume":null,"cum_volume":null,"change_rate":null,'
        '"fields":{"best_ask":"71300","best_bid":"71200"},'
        '"text":"{\\"type\\":\\"0C\\",\\"name\\":\\"주식우선호가\\",\\"item\\":\\"005930\\",'
        '\\"values\\":{\\"27\\":\\"-71300\\",\\"28\\":\\"-71200\\"}}"}'
    )
