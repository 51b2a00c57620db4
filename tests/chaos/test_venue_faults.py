"""Faults of venues against the whole daemon: what the venue's own journal says is in the tables, once, or in a gap."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daemon.simulator.venue import ROLL_BASE
from tests.chaos.venue_rig import Feed, VenueRig
from tests.rig import wait_for

RATE = 1_500.0
RESETS = 5  # an event loop may miss some of them
MakeRig = Callable[..., VenueRig]


@pytest.fixture
def make_rig(tmp_path: Path, postgres_dsn: str, redis_url: str) -> Iterator[MakeRig]:
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(VenueRig(tmp_path, postgres_dsn, redis_url, **fields))


def symbols(number: int, count: int) -> list[str]:
    """Return *count* Korean symbols that no other *number* has."""
    return [f"{100 + number:03d}{10 * i:03d}" for i in range(count)]


def run_for(rig: VenueRig, seconds: float) -> None:
    """Let the offer go on for as long as it takes to bring what *seconds* of it are."""
    rig.wait_received(int(seconds * RATE))


@pytest.mark.requirement("F20", "F21", "F15")
def test_a_record_left_out_is_exactly_one_gap_and_disorder_corrections_and_new_fields_are_none(
    make_rig: MakeRig,
) -> None:
    dropped, swapped, corrected, plain = symbols(0, 4)
    wide = symbols(1, 3)
    rig = make_rig(accounts={"a": "kis", "b": "kis"}, feeds=[Feed(["a"], symbols(0, 4)), Feed(["b"], wide)])
    rig.start(
        rate=RATE,
        faults=(
            f"drop:{dropped}:12", f"reorder:{swapped}:9", f"correct:{corrected}:11", "new_field:3@key-b",
            "bad_utf8:15@key-b",
        ),
    )  # fmt: skip
    run_for(rig, 4.5)

    _, totals = rig.finish()

    # each trade that was left out, and that something followed, is one gap with its size, at its moment
    left_out = rig.query(
        """
        SELECT j.size, j.sent_ns / 1e9 FROM journal j
        WHERE j.fate = 'dropped' AND j.kind = 'trade' AND j.symbol = %s
          AND j.key < (SELECT max(key) FROM journal WHERE symbol = j.symbol AND kind = 'trade' AND fate = 'sent')
        ORDER BY j.key
        """,
        dropped,
    )
    told = rig.query(
        "SELECT missing, extract(epoch FROM started), extract(epoch FROM ended), reason FROM feed_gaps"
        " WHERE symbol = %s AND missing IS NOT NULL ORDER BY started",
        dropped,
    )
    assert len(left_out) > 20
    assert [missing for missing, *_ in told] == [size for size, _ in left_out]
    # the journal has the time of the batch with which a record left, or would have left
    same_moment_s = rig.clocks_apart_s()
    for (_, at), (_, started, ended, _) in zip(left_out, told, strict=True):
        assert float(started) - same_moment_s <= at <= float(ended) + same_moment_s
    assert rig.missing_shares()[dropped][1] == sum(size for size, _ in left_out)
    assert rig.gaps([swapped, corrected, plain, *wide]) == []
    late = dict(rig.query("SELECT symbol, count(*) FROM market_ticks WHERE flags & 8 <> 0 GROUP BY symbol"))
    assert late[swapped] > 20
    assert set(late) <= {swapped, corrected}
    assert totals["fates"]["dropped"] >= len(left_out)
    assert rig.total("records_quarantined") == 0


@pytest.mark.requirement("F14", "F17", "F20")
def test_packed_frames_wrong_counts_cut_records_garbage_and_a_new_session_leave_every_whole_record(
    make_rig: MakeRig,
) -> None:
    sound, damaged = symbols(0, 5), symbols(1, 5)
    rig = make_rig(accounts={"a": "kis", "b": "kis"}, feeds=[Feed(["a"], sound), Feed(["b"], damaged)])
    rig.start(
        rate=RATE,
        faults=("pack:19", "roll:4", "wrong_count:7@key-b", "truncate:11@key-b", "garbage:20@key-a"),
    )
    run_for(rig, 2.0)
    rig.inject("big_frame@key-a")
    run_for(rig, 3.0)
    wait_for(lambda: any(event["event"] == "roll" for event in rig.happened()), "the new session")
    run_for(rig, 2.0)  # it begins with the next second

    _, totals = rig.finish()

    assert rig.gaps(sound) == []
    # a frame that contradicts itself is in quarantine with all its bytes, and what it held is missing shares
    reasons = dict(rig.query("SELECT reason, count(*) FROM quarantine WHERE original_bytes = length(frame) GROUP BY 1"))
    assert reasons["number of fields does not fit the record count and the TR"] > 20
    spoiled = rig.query(
        """
        SELECT d.symbol, sum(d.size), (SELECT sum(missing) FROM feed_gaps g WHERE g.symbol = d.symbol)
        FROM journal d
        WHERE d.fate = 'damaged' AND d.kind = 'trade' AND EXISTS (
            SELECT FROM journal s WHERE s.symbol = d.symbol AND s.kind = 'trade' AND s.fate = 'sent'
            AND (s.key >= %(roll)s) = (d.key >= %(roll)s) AND s.key > d.key
        ) AND EXISTS (
            SELECT FROM journal s WHERE s.symbol = d.symbol AND s.kind = 'trade' AND s.fate = 'sent'
            AND (s.key >= %(roll)s) = (d.key >= %(roll)s) AND s.key < d.key
        ) AND NOT EXISTS (
            SELECT FROM market_ticks t WHERE t.symbol = d.symbol AND t.cum_volume::bigint = d.key
        ) GROUP BY d.symbol
        """,
        roll=ROLL_BASE,
    )
    assert {symbol for symbol, *_ in spoiled} == set(damaged)
    assert all(lost == told for _, lost, told in spoiled), spoiled
    assert totals["garbage"].keys() >= {"big", "short_record", "bad_count", "truncated", "invalid_utf8"}


@pytest.mark.requirement("F22")
def test_of_two_sessions_with_the_same_streams_either_may_lag_stall_and_end(make_rig: MakeRig) -> None:
    rig = make_rig(
        accounts={"a": "kis", "b": "kis"},
        feeds=[Feed(["a", "b"], symbols(0, 6), redundancy="ab")],
        workers=2,
    )
    rig.start(rate=RATE, faults=("market_goes_on", "jitter:150:200@key-b"))
    run_for(rig, 1.0)
    rig.inject("stall@key-a")
    run_for(rig, 1.0)
    for fault in ("close@key-a", "close@key-b", "abort@key-a", "close@key-b"):
        began_ns = time.time_ns()
        rig.inject(fault)
        rig.wait_registered(12, after_ns=began_ns)
        # The daemon too has to know that both sides stream: only then may the other one end without a gap. More
        # repeats than the late side can have on its way say so.
        enough = rig.total("duplicates_dropped") + RATE
        wait_for(lambda: rig.total("duplicates_dropped") > enough, "both sides")  # noqa: B023

    verdict, totals = rig.finish()

    assert verdict.in_gaps == 0
    assert rig.gaps() == []
    assert rig.total("duplicates_dropped") > verdict.sent / 3
    assert totals["fates"]["sent"] == verdict.stored
    # within a stream, what the venue numbers comes in the order of the numbers, except what is marked as late
    disorder = rig.query(
        """
        SELECT count(*) FROM (
            SELECT key, max(key) OVER (PARTITION BY kind, symbol ORDER BY source, seq) AS top, is_late FROM (
                SELECT 'trade' AS kind, symbol, source, seq, cum_volume AS key, flags & 8 <> 0 AS is_late
                FROM market_ticks
            ) rows
        ) ordered WHERE key < top AND NOT is_late
        """
    )
    assert disorder == [(0,)]


@pytest.mark.requirement("F19", "DLP-02", "CH-PROC-01")
@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.nightly)])
def test_a_venue_that_repeats_its_last_trades_to_a_restarted_worker_doubles_none(make_rig: MakeRig, kills: int) -> None:
    rig = make_rig(
        accounts={"kis": "kis", "kiwoom": "kiwoom", "upbit": "upbit"},
        feeds=[
            Feed(["kis"], symbols(0, 3), kinds=["trade"]),
            Feed(["kiwoom"], symbols(1, 3), kinds=["trade"]),
            Feed(["upbit"], ["KRW-BTC", "KRW-ETH", "KRW-XRP"], market="crypto", kinds=["trade"]),
        ],
    )
    rig.start(
        rate=RATE, faults=("replay:40", "duplicate:0.05", "market_goes_on"), extra=("--venues", "kis,kiwoom,upbit")
    )
    for _ in range(kills):
        run_for(rig, 0.3)
        before = rig.total("duplicates_dropped")
        killed = wait_for(lambda: rig.kill_roles(signal.SIGKILL, "worker"), "a worker to kill")
        wait_for(lambda: set(rig.pids("worker")) - set(killed), "another worker")  # noqa: B023
        wait_for(lambda: rig.total("duplicates_dropped") > before, "repeated trades")  # noqa: B023
    run_for(rig, 0.2)

    verdict, totals = rig.finish()

    assert (verdict.duplicated, verdict.lost) == (0, 0)
    assert totals["duplicates"] > kills * 40
    for venue, market in (("kis", "kr"), ("kiwoom", "kr"), ("upbit", "crypto")):
        ((stored, different),) = rig.query(
            "SELECT count(*), count(DISTINCT (symbol, CASE WHEN market = 'crypto' THEN volume ELSE cum_volume END))"
            " FROM market_ticks WHERE venue = %s AND market = %s",
            venue, market,
        )  # fmt: skip
        assert stored == different > 0, venue


@pytest.mark.requirement("F01", "F02", "F03", "F11", "F19", "DUAL-ISO-01")
def test_sessions_that_end_in_every_way_account_for_what_they_did_not_hear_and_disturb_no_other(
    make_rig: MakeRig,
) -> None:
    names = ["closed", "reset", "half", "expired", "again", "calm"]
    of = {name: symbols(number, 3) for number, name in enumerate(names)}
    kinds = {name: ("trade",) if name == "again" else ("trade", "orderbook") for name in names}
    rig = make_rig(
        accounts=dict.fromkeys(names, "kis"),
        feeds=[Feed([name], of[name], kinds=kinds[name]) for name in names],
        workers=2,
        link_timeout_s=2.0,
    )
    rig.start(
        rate=RATE,
        # a fault that concerns no symbol makes the venue look at each record, so that it trades on without a listener
        faults=("market_goes_on", "replay:40@key-again", "drop:NONE:9@key-half"),
        extra=("--pingpong-interval", "0.5"),
    )
    run_for(rig, 1.0)
    issued = rig.total("account_keys_fetched")
    for fault in ("half_open@key-half", "expire_keys@key-expired"):
        rig.inject(fault)
    began_ns = time.time_ns()
    for fault in ("close@key-closed", "abort@key-reset", "close@key-expired", "close@key-again"):
        rig.inject(fault)
    wait_for(lambda: rig.total("connections_lost") >= 6, f"all ends: {rig.tail()}")
    rig.wait_registered(27, after_ns=began_ns)
    for _ in range(RESETS - 1):
        reset_ns = time.time_ns()
        rig.inject("abort@key-reset")
        rig.wait_registered(6, after_ns=reset_ns, symbols=of["reset"])
    run_for(rig, 0.5)

    verdict, totals = rig.finish()

    # a gap starts with the receipt of the last frame: what was traded while that travelled may be before it
    ((unheard, outside),) = rig.query(
        """
        SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (
            SELECT FROM feed_gaps g WHERE g.symbol = j.symbol AND g.kind = j.kind AND g.venue = j.venue
            AND j.sent_ns / 1e9 BETWEEN extract(epoch FROM g.started) - %s AND extract(epoch FROM g.ended)
        )) FROM journal j WHERE fate = 'unheard'
        """,
        rig.clocks_apart_s(),
    )
    assert unheard > 0
    assert outside == 0
    assert rig.gaps(of["calm"]) == []
    for name in ("closed", "reset", "half", "expired", "again"):
        told = {(symbol, kind) for symbol, kind, reason, _ in rig.gaps(of[name]) if reason == "connection lost"}
        assert told == {(symbol, kind) for symbol in of[name] for kind in kinds[name]}, name
    connects = Counter(event["event"] for event in rig.happened(after_ns=began_ns))["connect"]
    assert connects == 5 + RESETS, "one for each end of a session, one more for the key"
    ends = Counter((event["account"], event["reason"]) for event in rig.events("connection_ended"))
    assert ends["reset", "lost"] >= RESETS  # at once, not when the link had been silent for long
    assert [end for end in ends if end[1] == "link silent"] == [("half", "link silent")]
    assert totals["approvals"]["issued"] == rig.total("account_keys_fetched") == issued + 1
    assert totals["duplicates"] == rig.total("duplicates_dropped") > 0
    assert rig.query("SELECT count(*) FROM quarantine") == [(0,)]
    back = [event for event in rig.requests(after_ns=began_ns) if event["msg_cd"] in ("OPSP0000", "OPSP0002")]
    of_closed = [event["time_ns"] for event in back if event["tr_key"] in of["closed"]]
    assert max(of_closed) - began_ns < 3e9
    assert verdict.sent > 0


@pytest.mark.requirement("F08", "F06", "F07", "F09", "F10", "F12")
def test_limits_held_slots_lost_replies_and_a_venue_that_kicks(make_rig: MakeRig) -> None:
    many, few, held, quiet = symbols(0, 6), symbols(1, 2), symbols(2, 2), symbols(3, 2)
    rig = make_rig(
        accounts={"small": "kis", "large": "kis", "held": "kis", "quiet": "kis", "kicked": "kis"},
        feeds=[
            Feed(["small", "large"], many),
            Feed(["held"], held),
            Feed(["quiet"], quiet),
            Feed(["kicked"], few),
        ],
        workers=2,
        connects_per_10min=5,
        connects_per_10min_address=200,
    )
    rig.start(
        rate=RATE,
        faults=(
            "limit:5@key-small", "kick:600@key-kicked", "slot_held:2@key-held", f"no_ack:{quiet[0]}:1",
            f"lost_ack:{quiet[1]}:1", "late_ack:0.4@key-quiet", "throttle_approval:1@key-quiet",
        ),
        start_after=12 + 4 + 4,
    )  # fmt: skip
    wait_for(lambda: rig.total("subscriptions_confirmed") >= 20, f"all that can be had: {rig.tail()}")
    run_for(rig, 1.0)
    aborted_ns = time.time_ns()
    rig.inject("abort@key-held")
    rig.wait_registered(4, after_ns=aborted_ns, symbols=held)
    run_for(rig, 1.0)
    assert rig.stop_daemon() == 0
    wait_for(lambda: sum(e["event"] == "disconnect" for e in rig.happened()) >= 9, "the journal to be whole")
    asked = rig.requests()
    replies = Counter(event["msg_cd"] for event in asked)
    restarted_ns = time.time_ns()
    rig.start_daemon()
    wait_for(lambda: rig.total("subscriptions_confirmed") >= 20, f"after the restart: {rig.tail()}")
    run_for(rig, 0.7)

    _, totals = rig.finish()

    # learned, kept, moved
    assert replies["OPSP0008"] >= 1
    assert [e for e in rig.requests(after_ns=restarted_ns) if e["msg_cd"] == "OPSP0008"] == []
    # a request that was ignored is repeated, one whose reply was lost is found to be in force
    again = Counter(event["msg_cd"] for event in asked if event["tr_key"] == quiet[0])
    assert again["ignored"] == 1
    assert again["OPSP0000"] >= 2  # the two kinds
    assert [e["msg_cd"] for e in asked if e["tr_key"] == quiet[1]].count("OPSP0002") <= 1
    # attempts, not replies: on a busy machine several requests are on their way when the first refusal arrives
    assert len({event["session"] for event in asked if event["msg_cd"] == "OPSP8996"}) <= 4
    assert totals["approvals"]["throttled"] == 1
    # five attempts in each life of the daemon
    assert 0 < totals["kicked"] <= 10
    assert {"connect_withheld", "slot_held", "session_full"} <= rig.alerts()


@pytest.mark.requirement("F16", "F17")
def test_data_in_the_segment_of_the_upgrade_and_a_flood_of_tiny_frames_cost_no_record(make_rig: MakeRig) -> None:
    wanted = symbols(0, 4)
    rig = make_rig(accounts={"a": "kis", "b": "kis"}, feeds=[Feed(["a"], wanted[:2]), Feed(["b"], wanted[2:])])
    rig.start(rate=RATE, faults=(f"early:{wanted[0]}@key-a", "tiny:1.5:20000@key-b"))
    run_for(rig, 2.5)

    assert rig.total("connections_lost") == 0
    _, totals = rig.finish()

    # the trade that came with the answer to the upgrade, before anything was registered, is stored
    first = rig.query(
        "SELECT key FROM journal WHERE symbol = %s AND kind = 'trade' ORDER BY sent_ns LIMIT 1", wanted[0]
    )
    stored = rig.query("SELECT min(cum_volume)::bigint FROM market_ticks WHERE symbol = %s", wanted[0])
    assert stored == first
    assert totals["garbage"]["tiny"] >= 20_000
    assert rig.query("SELECT count(*) >= 20000 FROM quarantine") == [(True,)]
    assert rig.gaps() == []


@pytest.mark.requirement("SUB-RETRY-01", "F06")
def test_what_one_session_cannot_have_another_one_brings_also_in_another_worker(make_rig: MakeRig) -> None:
    wanted = symbols(0, 6)
    rig = make_rig(
        accounts={"a": "kis", "b": "kis"}, feeds=[Feed(["a", "b"], wanted, kinds=["trade"])], workers=2,
        subscribe_timeout_s=0.3,
    )  # fmt: skip
    faults = [f"no_ack:{symbol}:99@key-a" for symbol in wanted[:4]]  # half of them are on it
    rig.start(rate=RATE, faults=faults, start_after=4)
    wait_for(lambda: rig.total("subscriptions_confirmed") == len(wanted), f"all of them: {rig.tail()}")
    run_for(rig, 1.0)

    rig.finish()

    moved = {event["tr_key"] for event in rig.requests() if event["msg_cd"] == "ignored"}
    assert moved
    heard = {symbol for (symbol,) in rig.query("SELECT DISTINCT symbol FROM market_ticks")}
    assert heard == set(wanted)
    assert {symbol for symbol, *_ in rig.gaps()} <= moved
    assert rig.total("subscriptions_failed") == 0
    assert "subscription_failed" in rig.alerts()


class BadSecretRig(VenueRig):
    """The venue does not accept the secret of account `bad`."""

    def _config(self, address: dict[str, Any]) -> str:
        text = super()._config(address)
        assert 'app_key = "key-bad"\napp_secret = "secret"' in text
        return text.replace('app_key = "key-bad"\napp_secret = "secret"', 'app_key = "key-bad"\napp_secret = "wrong"')


@pytest.mark.requirement("SUB-RETRY-01", "F09")
def test_what_an_account_that_is_refused_held_or_superseded_had_is_brought_by_another(
    tmp_path: Path, postgres_dsn: str, redis_url: str
) -> None:
    korean, kiwoom = symbols(0, 9), symbols(1, 4)
    with BadSecretRig(
        tmp_path, postgres_dsn, redis_url, workers=2, slot_held_backoff_s=0.1, connects_per_10min=50,
        accounts={"held": "kis", "spare": "kis", "bad": "kis", "top": "kiwoom", "next": "kiwoom"},
        feeds=[Feed(["held", "spare", "bad"], korean, kinds=["trade"]), Feed(["top", "next"], kiwoom, kinds=["trade"])],
    ) as rig:  # fmt: skip
        # nothing is offered before all are registered: those of the refused credentials, too
        rig.start(rate=RATE, faults=("slot_held:600@key-held",), extra=("--venues", "kis,kiwoom"))
        assert "credential_refused" in rig.alerts()
        assert rig.gaps() == []

        for number, (fault, code) in enumerate(
            {"abort@key-held": "slot_held", "supersede@key-top": "session_superseded"}.items()
        ):
            rig.inject(fault)
            wait_for(lambda: code in rig.alerts(), f"{code}: {rig.tail()}")  # noqa: B023
            wait_for(lambda: len(rig.events("offered_elsewhere")) > number + 1, f"the offer: {rig.tail()}")  # noqa: B023
            ended_s = time.time()
            wait_for(lambda: heard_since(rig, ended_s) == {*korean, *kiwoom}, f"all again: {rig.tail()}")  # noqa: B023

        rig.finish()

        assert {reason for _, _, reason, _ in rig.gaps()} == {"connection lost"}
    for account, code in (("bad", "credential_refused"), ("held", "slot_held"), ("top", "session_superseded")):
        told = [event for event in rig.events("alert") if event["code"] == code]
        assert told, account
        assert all(account in event["subject"] for event in told), told


def heard_since(rig: VenueRig, wall_s: float) -> set[str]:
    """Return the symbols that the database has trades of which were received since then."""
    with psycopg.connect(rig.postgres.dsn) as connection:
        rows = connection.execute(
            "SELECT DISTINCT symbol FROM market_ticks WHERE recv_time > to_timestamp(%s)", [wall_s]
        ).fetchall()
    return {str(symbol) for (symbol,) in rows}


@pytest.mark.requirement("F63")
def test_a_reload_touches_the_changed_symbols_and_nothing_else(make_rig: MakeRig) -> None:
    first, second = symbols(0, 8), symbols(1, 4)
    rig = make_rig(accounts={"a": "kis", "b": "kis"}, feeds=[Feed(["a"], first[:4]), Feed(["b"], second)], workers=2)
    rig.start(rate=RATE)
    run_for(rig, 0.5)

    def counted(after_ns: int) -> Counter[tuple[str, str]]:
        return Counter((event["event"], event["tr_key"]) for event in rig.requests(after_ns=after_ns))

    for kept, added, removed in ((first[:2], first[4:], first[2:4]), (first[4:], first[2:4], first[:2])):
        began_ns = time.time_ns()
        rig.reload([Feed(["a"], [*kept, *added] if added == first[4:] else [*first[2:]]), Feed(["b"], second)])
        wanted = Counter({("subscribe", s): 2 for s in added} | {("unsubscribe", s): 2 for s in removed})
        wait_for(lambda: counted(began_ns) == wanted, f"the changes: {rig.tail()}", 10.0)  # noqa: B023
        run_for(rig, 0.5)
    good = rig.config_path.read_text()
    began_ns = time.time_ns()
    rig.reload_text(good.replace('market = "kr"', 'market = "mars"', 1))
    run_for(rig, 0.5)
    rig.config_path.write_text(good)
    assert counted(began_ns) == Counter()
    assert rig.total("connections_opened") == 2
    assert rig.total("connections_lost") == 0

    rig.finish()

    assert rig.gaps([*first[4:], *second]) == []


@pytest.mark.requirement("TS-CON-01", "F13")
def test_korean_american_and_crypto_markets_of_three_venues_side_by_side_lose_and_double_nothing(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(
        accounts={"kis": "kis", "kis2": "kis", "kiwoom": "kiwoom", "upbit": "upbit"},
        feeds=[
            Feed(["kis"], symbols(0, 4)),
            Feed(["kis2"], ["DNASAAPL", "DNYSBA", "DAMSSPY"], market="us"),
            Feed(["kiwoom"], symbols(2, 4)),
            Feed(["upbit"], ["KRW-BTC", "KRW-ETH", "KRW-XRP"], market="crypto"),
        ],
        workers=2,
    )
    rig.start(
        rate=RATE,
        extra=("--venues", "kis=0.5,kiwoom,upbit", "--fragment", "0.05", "--pingpong-interval", "0.3"),
    )
    run_for(rig, 4.0)

    verdict, totals = rig.finish()

    found = dict(rig.query("SELECT venue || ' ' || market, count(*) FROM market_ticks GROUP BY 1"))
    assert set(found) == {"kis kr", "kis us", "kiwoom kr", "upbit crypto"}
    assert verdict.stored == verdict.sent == totals["sent"]["total"]
    assert rig.gaps() == []
    assert rig.query("SELECT count(*) FROM quarantine") == [(0,)]
    beats = totals["venues"]["kis"]["pingpong"]
    assert beats["timeouts"] == 0


@pytest.mark.nightly
@pytest.mark.requirement("LEAK-01", "SUB-CONF-01")
def test_a_thousand_symbols_of_two_kinds_are_subscribed_over_fifty_sessions_within_a_minute(make_rig: MakeRig) -> None:
    """The minute is mostly the venue's own pace: 40 requests a session, 100 ms apart, and one key a second."""
    accounts = {f"a{number}": "kis" for number in range(50)}
    wide = [f"{10 * i:06d}" for i in range(1, 1001)]
    rig = make_rig(
        accounts=accounts, feeds=[Feed([*accounts], wide)], workers=2, subscribe_interval_ms=100,
        subscribe_timeout_s=5.0, connects_per_10min_address=200,
    )  # fmt: skip
    rig.start_simulator(rate=RATE, extra=("--start-after", str(rig.wanted)))
    began = time.monotonic()
    rig.start_daemon()
    wait_for(lambda: rig.total("subscriptions_confirmed") == 2000, "2,000 subscriptions", 120.0)
    took_s = time.monotonic() - began
    print(f"2,000 registrations over 50 sessions in {took_s:.1f} s")
    assert rig.total("subscriptions_pending") == 0
    assert took_s < 60.0

    rig.finish()
