"""The shard plan: which account carries what, and which worker runs it."""

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import Account, Config, Feed
from daemon.errors import ConfigError
from daemon.ingest.venues import venue_named
from daemon.ingest.venues.venue import Registration, Venue
from daemon.shard_plan import Plan, PlannedConnection, PlannedSubscription, WorkerPlan, make_plan

KIS_LIMIT = 41


class FakeVenue:
    """As much of a venue as a plan needs: codes of the market and kind, no registration it does not know."""

    needs_approval_key = True
    default_max_subscriptions = KIS_LIMIT

    def __init__(self, name: str) -> None:
        self.name = name

    def registration(self, market: str, kind: str, exchange: str, symbol: str) -> Registration:
        if market == "crypto":
            raise ConfigError(f"feeds.kinds: {self.name} has no {kind} of market {market!r}")
        return Registration(f"{market}/{kind}/{exchange}", f"D{symbol}")

    def record_symbol(self, registration: Registration) -> str:
        return registration.key.removeprefix("D")


def fake_venue(name: str) -> Venue:
    if name not in ("kis", "kiwoom"):
        return venue_named(name)  # refuses it
    return FakeVenue(name)  # type: ignore[return-value] # only what a plan asks for


def account(name: str = "main", **fields: object) -> Account:
    return msgspec.structs.replace(
        Account(name=name, venue="kis", app_key="very-secret-key", app_secret="very-secret-secret"), **fields
    )


def named(count: int, **fields: object) -> list[Account]:
    return [account(f"a{number}", **fields) for number in range(count)]


def symbols(count: int, first: int = 0) -> tuple[str, ...]:
    return tuple(f"{number:06d}" for number in range(first, first + count))


def feed(
    accounts: str | tuple[str, ...] = "main", wanted: int | tuple[str, ...] = ("005930",), **fields: object
) -> Feed:
    where = {"account": accounts} if isinstance(accounts, str) else {"accounts": accounts}
    return msgspec.structs.replace(
        Feed(market="kr", symbols=symbols(wanted) if isinstance(wanted, int) else wanted, **where), **fields
    )


def config(accounts: list[Account], feeds: list[Feed], workers: int = 2, **fields: object) -> Config:
    return msgspec.structs.replace(Config(accounts=tuple(accounts), feeds=tuple(feeds), workers=workers), **fields)


def plan_of(accounts: list[Account], feeds: list[Feed], workers: int = 2, **arguments: object) -> Plan:
    return make_plan(config(accounts, feeds, workers), source="sise.toml", venues=fake_venue, **arguments)  # type: ignore[arg-type]


def refusal(accounts: list[Account], feeds: list[Feed]) -> str:
    with pytest.raises(ConfigError) as refused:
        plan_of(accounts, feeds)
    message = str(refused.value)
    assert message.startswith("sise.toml: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix("sise.toml: ")


def by_account(plan: Plan) -> dict[str, PlannedConnection]:
    return {connection.account: connection for connection in plan.connections()}


def places(plan: Plan) -> set[tuple[str, PlannedSubscription]]:
    return {(c.account, subscription) for c in plan.connections() for subscription in c.subscriptions}


def shared(plan: Plan) -> int:
    return sum(c.kinds() >= {"trade", "orderbook"} for c in plan.connections())


def workers(plan: Plan) -> dict[str, int]:
    return {c.account: worker.worker for worker in plan.workers for c in worker.connections}


# ---- one account -------------------------------------------------------------------------------------------------


def test_one_account_is_one_session_with_the_union_of_its_feeds_whatever_their_markets_and_kinds() -> None:
    plan = plan_of(
        [account()], [feed(kinds=("trade", "index")), feed(wanted=("AAPL",), market="us", kinds=("orderbook",))], 1
    )

    (connection,) = plan.workers[0].connections
    assert (connection.account, connection.venue) == ("main", "kis")
    assert connection.subscriptions == (
        PlannedSubscription("trade", "kr", "", "005930", "kr/trade/", "D005930"),
        PlannedSubscription("index", "kr", "", "005930", "kr/index/", "D005930"),
        PlannedSubscription("orderbook", "us", "", "AAPL", "us/orderbook/", "DAAPL"),
    )


def test_the_same_symbol_on_two_exchanges_or_at_two_venues_is_two_streams() -> None:
    plan = plan_of(
        [account(), account("other", venue="kiwoom")], [feed(), feed(exchange="nxt"), feed("other")], workers=1
    )

    assert {(c.venue, s.exchange) for c in plan.connections() for s in c.subscriptions} == {
        ("kis", ""),
        ("kis", "nxt"),
        ("kiwoom", ""),
    }


def test_an_account_without_a_feed_opens_no_session() -> None:
    assert list(by_account(plan_of([account("used"), account("idle")], [feed("used")], 1))) == ["used"]


def test_a_worker_reads_back_the_plan_it_is_given_and_finds_no_secrets_in_it() -> None:
    (worker,) = plan_of([account()], [feed()], 1).workers

    packed = msgspec.msgpack.encode(worker)

    assert msgspec.msgpack.decode(packed, type=WorkerPlan) == worker
    assert b"secret" not in packed


# ---- limits ------------------------------------------------------------------------------------------------------


def test_a_session_at_its_limit_is_planned_and_one_registration_more_is_refused() -> None:
    assert plan_of([account()], [feed(wanted=41, kinds=("trade",))], 1).workers[0].registrations() == 41

    assert refusal([account()], [feed(wanted=42, kinds=("trade",))]) == (
        "feeds: account 'main' takes 41 registrations, its feeds need 42: 1 too many; 1 more account needed"
    )


def test_an_account_may_be_allowed_less_than_the_venue_documents() -> None:
    assert "takes 10 registrations, its feeds need 12: 2 too many" in refusal(
        [account(max_subscriptions=10)], [feed(wanted=6)]
    )


def test_the_refusal_says_how_many_accounts_of_that_limit_are_missing() -> None:
    assert "need 400: 359 too many; 9 more accounts needed" in refusal([account()], [feed(wanted=200)])
    assert refusal(named(3), [feed(("a0", "a1", "a2"), 80)]) == (
        "feeds: accounts 'a0', 'a1', 'a2' take 123 registrations, their feeds need 160: "
        "37 too many; 1 more account needed"
    )
    assert refusal(named(50), [feed(tuple(f"a{n}" for n in range(50)), 1100)]).startswith(
        "feeds: 50 accounts take 2050 "
    )


def test_every_group_of_accounts_that_is_too_small_is_named() -> None:
    found = refusal(
        named(3), [feed("a0", 30), feed("a1", symbols(10, 100)), feed("a2", symbols(41, 200), kinds=("trade", "nav"))]
    )

    assert found == (
        "feeds: account 'a0' takes 41 registrations, its feeds need 60: 19 too many; 1 more account needed; and "
        "account 'a2' takes 41 registrations, its feeds need 82: 41 too many; 1 more account needed"
    )


def test_an_account_with_a_choice_leaves_its_room_to_the_feed_that_has_none() -> None:
    plan = plan_of(named(2), [feed(("a0", "a1"), 20), feed("a0", symbols(20, 100))])

    assert len(places(plan)) == 80
    assert plan.left_out == ()
    assert {subscription.symbol for subscription in by_account(plan)["a0"].subscriptions} >= set(symbols(20, 100))


def test_best_effort_leaves_the_last_symbols_out_and_lists_them() -> None:
    plan = plan_of([account()], [feed(wanted=22, best_effort=True)], 1)

    assert plan.workers[0].registrations() == 41
    assert [(left.feed, left.subscription.kind, left.subscription.symbol) for left in plan.left_out] == [
        (0, "orderbook", "000020"),
        (0, "trade", "000021"),
        (0, "orderbook", "000021"),
    ]


def test_a_best_effort_feed_never_takes_the_room_of_another_one() -> None:
    plan = plan_of([account()], [feed(wanted=30, best_effort=True), feed(wanted=symbols(20, 100))], 1)

    assert {left.feed for left in plan.left_out} == {0}
    assert len(plan.left_out) == 59
    assert "takes 41 registrations, its feeds need 60" in refusal(
        [account()], [feed(wanted=30, best_effort=True), feed(wanted=symbols(30, 100))]
    )


@pytest.mark.requirement("F08")
def test_what_a_learned_limit_cuts_off_moves_to_another_session() -> None:
    accounts, feeds = named(2), [feed(("a0", "a1"), 30, kinds=("trade",))]
    before = plan_of(accounts, feeds)

    after = plan_of(accounts, feeds, learned={"a0": 10}, before=before, running={0, 1})

    assert {name: len(c.subscriptions) for name, c in by_account(after).items()} == {"a0": 10, "a1": 20}
    assert by_account(after)["a0"].subscriptions == by_account(before)["a0"].subscriptions[:10]  # what came first
    assert by_account(after)["a1"].subscriptions[:15] == by_account(before)["a1"].subscriptions
    assert workers(after) == workers(before)


@pytest.mark.requirement("F08")
def test_what_a_learned_limit_leaves_no_room_for_is_listed_and_stops_nothing() -> None:
    plan = plan_of([account()], [feed(wanted=20)], 1, learned={"main": 30})

    assert plan.workers[0].registrations() == 30
    assert len(plan.left_out) == 10
    assert plan_of([account()], [feed(wanted=20)], 1, learned={"main": 99}).left_out == ()


# ---- trades and books ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("DUAL-SOC-01")
def test_trades_and_books_travel_apart_where_two_accounts_allow_it_and_the_plan_says_where_not() -> None:
    apart = plan_of(named(2), [feed(("a0", "a1"), 5)], 1)
    by_feed = plan_of([account("t"), account("b")], [feed("t", kinds=("trade",)), feed("b", kinds=("orderbook",))], 1)
    together = plan_of([account()], [feed()], 1)

    assert [c.kinds() for c in apart.connections()] == [{"trade"}, {"orderbook"}]
    assert [c.kinds() for c in by_feed.connections()] == [{"trade"}, {"orderbook"}]
    assert [c.kinds() for c in together.connections()] == [{"trade", "orderbook"}]


@pytest.mark.requirement("DUAL-SOC-01")
@pytest.mark.parametrize(
    ("trades", "books", "shared"), [(41, 41, 0), (60, 15, 0), (82, 10, 0), (100, 10, 1), (50, 70, 2)]
)
def test_accounts_are_shared_only_when_there_is_no_other_room(trades: int, books: int, shared: int) -> None:
    pool = ("a0", "a1", "a2")
    plan = plan_of(named(3), [feed(pool, trades, kinds=("trade",)), feed(pool, symbols(books), kinds=("orderbook",))])

    assert sum(len(c.kinds()) > 1 for c in plan.connections()) == shared
    assert len(places(plan)) == trades + books


@pytest.mark.requirement("DOOM-PROT-02")
def test_in_single_socket_mode_trades_and_books_share_every_session() -> None:
    dual = config(named(3), [feed(("a0", "a1", "a2"), 30)])
    single = msgspec.structs.replace(dual, single_socket=True)
    before = make_plan(dual, venues=fake_venue)

    plan = make_plan(single, before=before, running={0, 1}, venues=fake_venue)

    assert {name: c.kinds() for name, c in by_account(plan).items()} == {
        "a0": {"trade", "orderbook"},
        "a1": {"trade", "orderbook"},
    }
    assert [c.kinds() for c in make_plan(dual, before=plan, venues=fake_venue).connections()].count(
        frozenset({"trade"})
    ) == 2


@pytest.mark.requirement("DUAL-SOC-01")
def test_a_second_account_takes_the_books_and_leaves_the_trades_where_they_are() -> None:
    before = plan_of(named(2), [feed("a0", 10)], 1)

    after = plan_of(named(2), [feed(("a0", "a1"), 10)], 1, before=before)

    assert {name: c.kinds() for name, c in by_account(after).items()} == {"a0": {"trade"}, "a1": {"orderbook"}}


# ---- A/B -------------------------------------------------------------------------------------------------------------


def test_a_redundant_feed_is_carried_by_both_halves_of_its_accounts_in_one_worker() -> None:
    pool = tuple(f"a{n}" for n in range(4))
    plan = plan_of([*named(4), account("other")], [feed(pool, 30, redundancy="ab"), feed("other", ("X",))])

    contents = {name: (set(c.kinds()), len(c.subscriptions)) for name, c in by_account(plan).items()}
    assert contents["a0"] == contents["a1"] == ({"trade"}, 30)
    assert contents["a2"] == contents["a3"] == ({"orderbook"}, 30)
    assert by_account(plan)["a0"].subscriptions == by_account(plan)["a1"].subscriptions
    where = workers(plan)
    assert where["a0"] == where["a1"] != where["a2"] == where["a3"]


def test_two_feeds_with_redundancy_are_the_two_sides_of_one_stream() -> None:
    feeds = [feed(name, 3, kinds=("trade",), redundancy="ab") for name in ("a0", "a1")]

    plan = plan_of(named(2), feeds)

    assert [len(worker.connections) for worker in plan.workers] == [2, 0]
    assert len(places(plan)) == 6


def test_an_account_more_changes_the_side_of_no_other() -> None:
    small = plan_of(named(3), [feed(("a0", "a1"), 10, redundancy="ab")])

    large = plan_of(named(3), [feed(("a0", "a1", "a2"), 10, redundancy="ab")], before=small, running={0})

    assert {"a0", "a1"} == {
        name for name, subscription in places(small) & places(large) if subscription.kind == "trade"
    }


def test_a_side_that_is_too_small_is_named() -> None:
    assert refusal(named(3), [feed(("a0", "a1", "a2"), 41, redundancy="ab")]) == (
        "feeds: account 'a1' takes 41 registrations, its feeds need 82: 41 too many; 1 more account needed"
    )


def test_sessions_that_share_a_stream_are_in_one_worker_also_through_a_third_one() -> None:
    feeds = [
        feed("a0", ("S", "T"), kinds=("trade",), redundancy="ab"),
        feed("a1", ("S",), kinds=("trade",), redundancy="ab"),
        feed("a2", ("T",), kinds=("trade",), redundancy="ab"),
        feed("a3", ("U",), kinds=("trade",)),
    ]

    where = workers(plan_of(named(4), feeds))

    assert where["a0"] == where["a1"] == where["a2"] != where["a3"]


# ---- workers -----------------------------------------------------------------------------------------------------


def test_sessions_are_spread_over_the_workers_by_their_registrations() -> None:
    sizes = (10, 40, 20, 30)
    plan = plan_of(
        [account(f"a{n}") for n in sizes],
        [feed(f"a{n}", tuple(f"S{n}x{i}" for i in range(n)), kinds=("trade",)) for n in sizes],
    )

    assert [[c.account for c in worker.connections] for worker in plan.workers] == [["a40", "a10"], ["a30", "a20"]]
    assert [worker.registrations() for worker in plan.workers] == [50, 50]


def test_every_session_is_in_exactly_one_worker_and_workers_may_be_empty() -> None:
    plan = plan_of([account("a"), account("b")], [feed("a"), feed("b", ("000660",))], 4)

    assert [len(worker.connections) for worker in plan.workers] == [1, 1, 0, 0]
    assert [worker.worker for worker in plan.workers] == [0, 1, 2, 3]


def test_while_they_run_only_the_workers_that_there_are_get_sessions_and_a_new_start_uses_all() -> None:
    before = plan_of(named(3), [feed("a0", 20)])
    feeds = [feed("a0", 20), feed("a1", ("X",)), feed("a2", ("Y",))]

    live = plan_of(named(3), feeds, before=before, running={0})
    started = plan_of(named(3), feeds, before=live)

    assert set(workers(live).values()) == {0}
    assert set(workers(started).values()) == {0, 1}


def test_a_changed_number_of_workers_is_planned_anew() -> None:
    feeds = [feed(f"a{n}", symbols(10, 100 * n)) for n in range(4)]
    two = plan_of(named(4), feeds, 2)

    assert sorted(workers(plan_of(named(4), feeds, 4, before=two)).values()) == [0, 1, 2, 3]
    assert sorted(workers(plan_of(named(4), feeds, 1, before=two)).values()) == [0, 0, 0, 0]


# ---- what cannot work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accounts", "feeds", "message"),
    [
        ([account(venue="nasdaq")], [feed()], "accounts.venue: 'nasdaq' is not supported; supported: kis"),
        ([account()], [feed(market="crypto")], "feeds[0].kinds: kis has no trade of market 'crypto'"),
        ([account(app_key="")], [feed()], "accounts.app_key: account 'main': is empty"),
        ([account(app_secret=" ")], [feed()], "accounts.app_secret: account 'main': is empty"),
        ([account()], [], "feeds: is empty: nothing would be collected"),
        ([], [], "feeds: is empty: nothing would be collected"),
        ([account()], [feed(wanted=("삼성",))], "feeds[0].symbols: '삼성'"),
        ([account()], [feed(wanted=("A|B",))], "feeds[0].symbols: 'A|B'"),
        ([account()], [feed(wanted=("A\nB",))], "feeds[0].symbols: 'A\\nB'"),
        ([account()], [feed(), feed()], "feeds[1].symbols: 005930 (trade) is collected twice, and redundancy is not"),
        ([account()], [feed(wanted=("A", "A"))], "feeds[0].symbols: A (trade) is collected twice"),
        (named(2), [feed(("a0", "a1")), feed("a0")], "feeds[1].symbols: 005930 (trade) is collected twice"),
        (named(2), [feed("a0"), feed("a1", redundancy="ab")], "feeds[1].symbols: 005930 (trade) is collected twice"),
        ([account()], [feed(redundancy="ab")], "feeds[0].redundancy: 005930 (trade) has one account; name two"),
        (
            [account()],
            [feed(redundancy="ab"), feed(redundancy="ab")],
            "feeds[1].redundancy: account 'main' would carry both sides of 005930 (trade)",
        ),
        (
            [account()],
            [feed(redundancy="ab", wanted=("A", "A"))],
            "feeds[0].symbols: A (trade) is collected twice by one feed",
        ),
        (
            named(3),
            [feed(("a0", "a1"), redundancy="ab"), feed("a2", redundancy="ab")],
            "feeds[1].symbols: 005930 (trade) is collected 3 times; redundancy takes two accounts",
        ),
        (
            [account("a"), account("b", venue="kiwoom")],
            [feed(("a", "b"))],
            "feeds[0].accounts: are of different venues; make a feed for each",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(accounts: list[Account], feeds: list[Feed], message: str) -> None:
    assert refusal(accounts, feeds).startswith(message)


# ---- properties ------------------------------------------------------------------------------------------------------

kinds = st.sampled_from([("trade",), ("orderbook",), ("trade", "orderbook"), ("trade", "orderbook", "expected")])


@st.composite
def fleets(draw: st.DrawFn) -> Config:
    """Feeds with overlapping pools of accounts, often with too little room, all of them best effort."""
    count = draw(st.integers(1, 6))
    accounts = [account(f"a{n}", max_subscriptions=draw(st.integers(1, 12))) for n in range(count)]
    feeds = []
    for number in range(draw(st.integers(1, 4))):
        pool = tuple(draw(st.lists(st.sampled_from([a.name for a in accounts]), min_size=1, unique=True)))
        redundancy = "ab" if len(pool) > 1 and draw(st.booleans()) else "none"
        feeds.append(
            feed(
                pool,
                symbols(draw(st.integers(1, 15)), 100 * number),
                kinds=draw(kinds),
                best_effort=True,
                redundancy=redundancy,
            )
        )
    return config(accounts, feeds, workers=draw(st.integers(1, 4)), single_socket=draw(st.booleans()))


def claims(found: Config) -> int:
    return sum(len(f.symbols) * len(f.kinds) * (2 if f.redundancy == "ab" else 1) for f in found.feeds)


def check_invariants(found: Config, plan: Plan) -> None:
    limits = {a.name: a.max_subscriptions for a in found.accounts}
    connections = list(plan.connections())
    assert len({c.account for c in connections}) == len(connections)
    for connection in connections:
        assert 0 < len(connection.subscriptions) <= limits[connection.account]
        assert len(set(connection.subscriptions)) == len(connection.subscriptions)
    assert len(places(plan)) + len(plan.left_out) == claims(found)
    carriers: dict[PlannedSubscription, set[int]] = {}
    for worker in plan.workers:
        for connection in worker.connections:
            for subscription in connection.subscriptions:
                carriers.setdefault(subscription, set()).add(worker.worker)
    assert all(len(found_in) == 1 for found_in in carriers.values())


@given(fleets())
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_no_limit_is_passed_and_both_sides_meet_in_one_worker(found: Config) -> None:
    plan = make_plan(found, venues=fake_venue)

    check_invariants(found, plan)
    assert make_plan(found, venues=fake_venue) == plan


@given(fleets())
@settings(max_examples=200, deadline=None)
def test_a_registration_is_left_out_only_if_all_its_accounts_are_full(found: Config) -> None:
    plan = make_plan(found, venues=fake_venue)

    loads = {name: len(c.subscriptions) for name, c in by_account(plan).items()}
    limits = {a.name: a.max_subscriptions for a in found.accounts}
    for left in plan.left_out:
        names = found.feeds[left.feed].accounts
        pool = names["ab".index(left.side) :: 2] if left.side else names
        assert [name for name in pool if loads.get(name, 0) < limits[name]] == []


@given(fleets())
@settings(max_examples=100, deadline=None)
def test_the_plan_before_changes_nothing_where_nothing_changed(found: Config) -> None:
    before = make_plan(found, venues=fake_venue)

    again = make_plan(found, before=before, running=range(found.workers), venues=fake_venue)

    assert places(again) == places(before)
    assert workers(again) == workers(before)


@given(fleets(), st.data())
@settings(max_examples=200, deadline=None)
def test_only_what_is_added_or_removed_moves_where_there_is_room(found: Config, data: st.DataObject) -> None:
    roomy = msgspec.structs.replace(
        found, accounts=tuple(msgspec.structs.replace(a, max_subscriptions=200) for a in found.accounts)
    )
    before = make_plan(roomy, venues=fake_venue)
    feeds = []
    for number, old in enumerate(roomy.feeds):
        kept = data.draw(st.lists(st.sampled_from(old.symbols), min_size=1, unique=True))
        added = symbols(data.draw(st.integers(0, 5)), 10_000 + 100 * number)
        feeds.append(msgspec.structs.replace(old, symbols=tuple(data.draw(st.permutations([*added, *kept])))))
    changed = msgspec.structs.replace(roomy, feeds=tuple(feeds))

    after = make_plan(changed, before=before, running=range(found.workers), venues=fake_venue)

    check_invariants(changed, after)
    if shared(after) < shared(before):
        return  # trades and order books are kept apart now, and could not be before
    wanted = {symbol for f in changed.feeds for symbol in f.symbols}
    old_symbols = {symbol for f in roomy.feeds for symbol in f.symbols}
    assert {place for place in places(before) if place[1].symbol in wanted} == {
        place for place in places(after) if place[1].symbol in old_symbols
    }
    stayed = workers(before).keys() & workers(after).keys()
    assert {name: workers(before)[name] for name in stayed} == {name: workers(after)[name] for name in stayed}


def test_a_thousand_symbols_over_fifty_accounts_are_planned_within_a_second() -> None:
    found = config(named(50), [feed(tuple(f"a{n}" for n in range(50)), 1000)], workers=4)

    began = time.process_time()
    plan = make_plan(found, venues=fake_venue)
    took_s = time.process_time() - began

    assert took_s < 1.0
    assert {len(c.subscriptions) for c in plan.connections()} == {40}
    assert all(len(c.kinds()) == 1 for c in plan.connections())
    assert [worker.registrations() for worker in plan.workers] == [520, 520, 480, 480]
