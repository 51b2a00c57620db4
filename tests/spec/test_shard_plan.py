"""The shard plan: which account carries what, and which worker runs it."""

import msgspec
import pytest

from daemon.config import Account, Config, Feed
from daemon.errors import ConfigError
from daemon.shard_plan import PlannedSubscription, WorkerPlan, make_plan


def account(name: str = "main", **fields: object) -> Account:
    return msgspec.structs.replace(
        Account(name=name, venue="kis", app_key="very-secret-key", app_secret="very-secret-secret"), **fields
    )


def feed(account: str = "main", symbols: int | tuple[str, ...] = ("005930",), **fields: object) -> Feed:
    if isinstance(symbols, int):
        symbols = tuple(f"{number:06d}" for number in range(symbols))
    return msgspec.structs.replace(Feed(account=account, market="kr", symbols=symbols), **fields)


def config(accounts: list[Account], feeds: list[Feed], workers: int = 2) -> Config:
    return Config(accounts=tuple(accounts), feeds=tuple(feeds), workers=workers)


def test_one_account_is_one_session_with_the_union_of_its_feeds() -> None:
    plan = make_plan(config([account()], [feed(kinds=("trade",)), feed(symbols=("000660",), kinds=("orderbook",))], 1))

    (worker,) = plan.workers
    (connection,) = worker.connections
    assert (connection.account, connection.venue, connection.market) == ("main", "kis", "kr")
    assert connection.subscriptions == (
        PlannedSubscription("trade", "005930", "H0STCNT0"),
        PlannedSubscription("orderbook", "000660", "H0STASP0"),
    )


@pytest.mark.requirement("DUAL-SOC-01")
def test_trades_and_books_travel_apart_where_two_accounts_allow_it_and_the_plan_says_where_not() -> None:
    apart = make_plan(
        config([account("t"), account("b")], [feed("t", kinds=("trade",)), feed("b", kinds=("orderbook",))], 1)
    )
    together = make_plan(config([account()], [feed()], 1))

    assert [c.kinds() for c in apart.workers[0].connections] == [{"trade"}, {"orderbook"}]
    assert [c.kinds() for c in together.workers[0].connections] == [{"trade", "orderbook"}]


def test_a_symbol_listed_twice_is_registered_once() -> None:
    plan = make_plan(config([account()], [feed(symbols=("005930", "005930"), kinds=("trade",))], 1))

    assert plan.workers[0].registrations() == 1


def test_a_session_at_its_limit_is_planned_and_one_registration_more_is_refused() -> None:
    assert make_plan(config([account()], [feed(symbols=41, kinds=("trade",))], 1)).workers[0].registrations() == 41

    with pytest.raises(
        ConfigError, match=r"^sise\.toml: feeds: account 'main' takes 41 .* need 42: 1 too many; 1 more account needed$"
    ):
        make_plan(config([account()], [feed(symbols=42, kinds=("trade",))], 1), source="sise.toml")


def test_the_refusal_says_how_many_accounts_are_missing() -> None:
    with pytest.raises(ConfigError, match="need 400: 359 too many; 9 more accounts needed"):
        make_plan(config([account()], [feed(symbols=200)], 1))


def test_sessions_are_spread_over_the_workers_by_their_registrations() -> None:
    sizes = (10, 40, 20, 30)
    plan = make_plan(
        config(
            [account(f"a{n}") for n in sizes],
            [feed(f"a{n}", tuple(f"S{n}x{i}" for i in range(n)), kinds=("trade",)) for n in sizes],
        )
    )

    assert [[c.account for c in worker.connections] for worker in plan.workers] == [["a40", "a10"], ["a30", "a20"]]
    assert [worker.registrations() for worker in plan.workers] == [50, 50]


def test_every_session_is_in_exactly_one_worker_and_workers_may_be_empty() -> None:
    plan = make_plan(config([account("a"), account("b")], [feed("a"), feed("b", ("000660",))], 4))

    assert [len(worker.connections) for worker in plan.workers] == [1, 1, 0, 0]
    assert [worker.worker for worker in plan.workers] == [0, 1, 2, 3]


def test_an_account_without_a_feed_opens_no_session() -> None:
    plan = make_plan(config([account("used"), account("idle")], [feed("used")], 1))

    assert [c.account for c in plan.workers[0].connections] == ["used"]


def test_a_worker_reads_back_the_plan_it_is_given_and_finds_no_secrets_in_it() -> None:
    (worker,) = make_plan(config([account()], [feed()], 1)).workers

    packed = msgspec.msgpack.encode(worker)

    assert msgspec.msgpack.decode(packed, type=WorkerPlan) == worker
    assert b"secret" not in packed


@pytest.mark.parametrize(
    ("accounts", "feeds", "message"),
    [
        ([account(venue="nasdaq")], [feed()], "'nasdaq' is not supported; supported: kis"),
        ([account()], [feed(market="crypto")], "kis has no trade channel for market 'crypto'"),
        ([account()], [feed(), feed(market="us", symbols=("DNASAAPL",))], "has feeds of 2 markets"),
        ([account(app_key="")], [feed()], "accounts.app_key: account 'main': is empty"),
        ([account(app_secret=" ")], [feed()], "accounts.app_secret: account 'main': is empty"),
        ([account()], [], "feeds: is empty: nothing would be collected"),
        ([], [], "feeds: is empty: nothing would be collected"),
        ([account()], [feed(symbols=("삼성",))], "feeds.symbols: '삼성'"),
        ([account()], [feed(symbols=("A|B",))], "feeds.symbols: 'A|B'"),
        ([account()], [feed(symbols=("A\nB",))], "feeds.symbols"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(accounts: list[Account], feeds: list[Feed], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make_plan(config(accounts, feeds), source="sise.toml")

    assert str(refusal.value).startswith("sise.toml: ")
    assert message in str(refusal.value)
