"""How often a worker may ask the venues for anything: budgets of connection attempts and of requests.

Pure: times are passed in. Venues block accounts and addresses for endless connecting and subscribing, so everything
that connects or subscribes asks here first. Budgets are sliding windows: no ten minutes anywhere in time see more
attempts than the budget. Nothing here grows: a window holds at most as many times as its budget.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable

import msgspec

CONNECT_WINDOW_S = 600.0
REQUEST_WINDOW_S = 60.0


class Budgets(msgspec.Struct, frozen=True):
    """What one worker may spend. 0 requests: no budget, the pace of the requests is enough."""

    connects_per_account: int
    connects_per_address: int
    requests_per_account: int = 0


def share_of_address(budget: int, *, workers: int, sessions: int) -> int:
    """Return one worker's part of a budget that all workers share.

    The workers do not talk to each other: each takes an equal part, so that together they stay within the budget.
    Only a budget too small for each session of the worker to connect once is exceeded, by that much.
    """
    return max(1, budget // max(1, workers), sessions)


class _Window:
    """The newest moments at which one budget was spent."""

    def __init__(self, budget: int, length_s: float) -> None:
        self._budget = budget
        self._length_s = length_s
        self._spent = array("d")  # oldest first

    def wait_s(self, now: float) -> float:
        """Return how long until there is something to spend; 0: now."""
        self._forget(now)
        if len(self._spent) < self._budget:
            return 0.0
        return max(0.0, self._spent[-self._budget] + self._length_s - now)

    def spend(self, now: float) -> None:
        self._forget(now)
        self._spent.append(now)

    def set_budget(self, budget: int) -> None:
        self._budget = budget

    def _forget(self, now: float) -> None:
        gone = bisect_right(self._spent, now - self._length_s)
        if gone:
            del self._spent[:gone]


class Governor:
    """The budgets of one worker's accounts and of the addresses that they connect to."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._accounts: dict[str, _Window] = {}
        self._addresses: dict[str, _Window] = {}
        self._requests: dict[str, _Window] = {}

    def set_budgets(self, budgets: Budgets) -> None:
        """Apply other budgets; what was spent stays spent."""
        self._budgets = budgets
        for windows, budget in (
            (self._accounts, budgets.connects_per_account),
            (self._addresses, budgets.connects_per_address),
            (self._requests, budgets.requests_per_account),
        ):
            for window in windows.values():
                window.set_budget(budget)

    def keep(self, accounts: Iterable[str]) -> None:
        """Forget accounts that are gone for longer than their windows remember anything: to be called at a reload."""
        kept = set(accounts)
        for windows in (self._accounts, self._requests):
            for name in [name for name in windows if name not in kept]:
                del windows[name]

    def connect_wait_s(self, account: str, address: str, now: float) -> float:
        """Return how long *account* has to wait before it may connect to *address*; 0: not at all."""
        return max(self._account(account).wait_s(now), self._address(address).wait_s(now))

    def on_connect(self, account: str, address: str, now: float) -> None:
        """An attempt is made, whatever comes of it."""
        self._account(account).spend(now)
        self._address(address).spend(now)

    def request_wait_s(self, account: str, now: float) -> float:
        """Return how long *account* has to wait before its next request; 0: not at all."""
        return self._request(account).wait_s(now) if self._budgets.requests_per_account else 0.0

    def on_request(self, account: str, now: float) -> None:
        """A request is sent."""
        if self._budgets.requests_per_account:
            self._request(account).spend(now)

    def _account(self, name: str) -> _Window:
        return self._accounts.setdefault(name, _Window(self._budgets.connects_per_account, CONNECT_WINDOW_S))

    def _address(self, name: str) -> _Window:
        return self._addresses.setdefault(name, _Window(self._budgets.connects_per_address, CONNECT_WINDOW_S))

    def _request(self, name: str) -> _Window:
        return self._requests.setdefault(name, _Window(self._budgets.requests_per_account, REQUEST_WINDOW_S))
