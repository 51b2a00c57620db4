"""Which account carries which registration: balanced, stable, and complete wherever the limits allow it. Pure.

A `Demand` may go to any account of its pool; an account takes as many as its limit. Nothing that has a place already
moves unless it must: because its account is gone or full, because its session could not have it and another account has
room, or because trades and order books can be kept apart now and could not before. Room that is taken by a demand with
a choice is given up to one that has none (augmenting paths of a bipartite matching), so what stays unplaced cannot be
placed at all.
"""

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence

import msgspec

FAMILIES = ("trade", "orderbook")  # kinds that travel apart; the others go wherever there is room
ANY = ""  # the role of an account that has to carry both


class Demand(msgspec.Struct, frozen=True):
    """One registration that needs an account; its number is its place in the sequence, which is its priority."""

    kind: str
    pool: tuple[str, ...]  # accounts that may carry it
    twin: int = -1  # number of the demand for the same data on another account; -1: none
    avoid: tuple[str, ...] = ()  # accounts of the pool that come last: their session could not have it


class Shortage(msgspec.Struct, frozen=True):
    """Accounts that are full, and how many demands without another choice are too many for them."""

    accounts: tuple[str, ...]
    needed: int
    capacity: int

    @property
    def excess(self) -> int:
        """Return the number of demands that find no place."""
        return self.needed - self.capacity


class Placement(msgspec.Struct, frozen=True):
    """Numbers of demands by account, in the order in which they should be registered, and what found no place."""

    placed: dict[str, list[int]]
    unplaced: list[int]
    shortages: tuple[Shortage, ...]


class Standing(msgspec.Struct, frozen=True):
    """What is there already. accounts: numbers of demands by account, in order of registration. workers: by account."""

    accounts: Mapping[str, Sequence[int]] = {}
    workers: Mapping[str, int] = {}


NOTHING = Standing()


def place(
    demands: Sequence[Demand], capacity: Mapping[str, int], *, standing: Standing = NOTHING, is_separate: bool = True
) -> Placement:
    """Give each of *demands* an account, with *capacity* registrations by account.

    is_separate: trades and order books on separate accounts wherever a pool has two and enough room; where it has not,
    they share some. False: they share as few accounts as can carry them, filled one after the other.
    If there is not room enough for all, the last demands are left out.
    """
    roles = _roles(demands, capacity, standing) if is_separate else {}

    def in_role(number: int) -> tuple[str, ...]:
        demand = demands[number]
        if demand.kind not in FAMILIES:
            return demand.pool
        found = tuple(account for account in demand.pool if roles.get(account, ANY) in (ANY, demand.kind))
        return found if set(found) - set(demand.avoid) else demand.pool

    every = range(len(demands))
    apart = _Filling(demands, capacity, standing, in_role, is_packed=not is_separate)
    apart.fill(every)
    if not apart.unplaced:
        return apart.result()

    def anywhere(number: int) -> tuple[str, ...]:
        return demands[number].pool

    together = _Filling(demands, capacity, standing, anywhere, preferred=in_role)
    together.fill(every)
    if not together.unplaced:
        return together.result()
    chosen = _Filling(demands, capacity, NOTHING, anywhere)
    for number in every:  # one by one, so that a later one never keeps an earlier one out
        chosen.fill((number,))
    left_out = set(chosen.unplaced)
    final = _Filling(demands, capacity, standing, anywhere, preferred=in_role, left_out=left_out)
    final.fill([number for number in every if number not in left_out])
    unplaced = sorted({*chosen.unplaced, *final.unplaced})
    return msgspec.structs.replace(final.result(), unplaced=unplaced, shortages=chosen.result().shortages)


def _roles(demands: Sequence[Demand], capacity: Mapping[str, int], standing: Standing) -> dict[str, str]:
    """Return what each account is for: one of FAMILIES, or ANY."""
    pools: dict[tuple[str, ...], Counter[str]] = {}
    for demand in demands:
        if demand.kind in FAMILIES:
            pools.setdefault(demand.pool, Counter())[demand.kind] += 1
    roles: dict[str, str] = {}
    for pool, wanted in pools.items():
        if len(pool) == 1:  # no choice: what it has to carry is what it is for
            (account,) = pool
            is_shared = len(wanted) > 1 or roles.get(account, next(iter(wanted))) != next(iter(wanted))
            roles[account] = ANY if is_shared else next(iter(wanted))
    held = {a: Counter(demands[n].kind for n in numbers) for a, numbers in standing.accounts.items()}
    for pool, wanted in sorted(pools.items(), key=lambda item: len(item[0])):  # the fewest choices first
        if len(pool) > 1:
            _share_out(pool, wanted, capacity, held, roles)
    return roles


def _share_out(
    pool: tuple[str, ...],
    wanted: Counter[str],
    capacity: Mapping[str, int],
    held: Mapping[str, Counter[str]],
    roles: dict[str, str],
) -> None:
    """Add to *roles* the accounts of *pool* that have none: first by what they carry, then by what lacks room most."""
    free = [account for account in pool if account not in roles]
    for account in free:
        carried = [family for family in FAMILIES if held.get(account, Counter())[family]]
        if len(carried) == 1 and wanted[carried[0]]:
            roles[account] = carried[0]
    missing = {family: wanted[family] for family in FAMILIES if wanted[family]}
    for account in pool:
        if roles.get(account) in missing:
            missing[roles[account]] -= capacity[account]
    for account in free:
        if account not in roles:
            family = max(missing, key=lambda f: missing[f])  # the first of equals
            roles[account] = family
            missing[family] -= capacity[account]
    for family in missing:  # each needs one account at least, if another family can spare it
        if any(roles[account] in (ANY, family) for account in pool):
            continue
        others = Counter(roles[account] for account in pool)
        spare = [account for account in free if others[roles[account]] > 1]
        if spare:
            roles[min(reversed(spare), key=lambda a: held.get(a, Counter()).total())] = family


class _Filling:
    """Accounts that fill up. eligible: the accounts that may carry a demand; preferred: those that should."""

    def __init__(
        self,
        demands: Sequence[Demand],
        capacity: Mapping[str, int],
        standing: Standing,
        eligible: Callable[[int], tuple[str, ...]],
        *,
        preferred: Callable[[int], tuple[str, ...]] | None = None,
        left_out: Container[int] = (),
        is_packed: bool = False,
    ) -> None:
        self.unplaced: list[int] = []
        self._demands = demands
        self._capacity = capacity
        self._eligible = eligible
        self._preferred = preferred or eligible
        self._is_packed = is_packed
        self._workers = standing.workers
        self._rank = {account: rank for rank, account in enumerate(capacity)}
        self._placed: dict[str, list[int]] = {account: [] for account in capacity}
        self._account_of: dict[int, str] = {}
        self._left: dict[int, str] = {}  # where the session could not have it: better than nowhere
        self._stuck: list[frozenset[str]] = []  # accounts that are full of demands that cannot go elsewhere
        for account, numbers in standing.accounts.items():
            for number in numbers:
                if account in demands[number].avoid:
                    self._left[number] = account
                elif number not in left_out and account in eligible(number) and self._has_room(account):
                    self._put(number, account)

    def result(self) -> Placement:
        """Return where everything is."""
        return Placement(self._placed, self.unplaced, tuple(self._shortage(accounts) for accounts in self._stuck))

    def fill(self, numbers: Sequence[int]) -> None:
        """Place those of *numbers* that have no place, the ones with the fewest choices first."""
        homeless = [number for number in numbers if number not in self._account_of]
        for number in sorted(homeless, key=lambda n: len(self._eligible(n))):
            choices = self._choices(number)
            if choices:
                self._put(number, min(choices, key=lambda a: self._cost(number, a)))
            elif not self._make_room(number):
                self.unplaced.append(number)

    def _choices(self, number: int) -> list[str]:
        """Return the accounts with room that are to be considered: the best sort of which there is any."""
        avoid = self._demands[number].avoid
        eligible = [account for account in self._eligible(number) if self._has_room(account)]
        preferred = [account for account in self._preferred(number) if account in eligible and account not in avoid]
        stays = [account for account in eligible if account == self._left.get(number)]
        return preferred or [account for account in eligible if account not in avoid] or stays or eligible

    def _cost(self, number: int, account: str) -> tuple[bool, int, int]:
        """Order the choices: those in a worker that the twin can share; then the emptiest; then the first."""
        is_apart = account in self._workers and not self._may_meet(number, self._workers[account])
        return is_apart, 0 if self._is_packed else len(self._placed[account]), self._rank[account]

    def _may_meet(self, number: int, worker: int) -> bool:
        """True if the twin of *number* is in *worker* or may come there: twins share a worker."""
        twin = self._demands[number].twin
        if twin < 0:
            return True
        places = [self._account_of[twin]] if twin in self._account_of else self._preferred(twin)
        return any(self._workers.get(place, worker) == worker for place in places)

    def _has_room(self, account: str) -> bool:
        return len(self._placed[account]) < self._capacity[account]

    def _put(self, number: int, account: str) -> None:
        self._placed[account].append(number)
        self._account_of[number] = account

    def _make_room(self, number: int) -> bool:
        """Move others, as few as possible, so that *number* finds a place; False: it cannot find one, now or later."""
        dead = frozenset[str]().union(*self._stuck)
        came_from: dict[str, tuple[str, int]] = {}
        queue = [account for account in self._eligible(number) if account not in dead]
        seen = set(queue)
        for account in queue:  # grows while it is read
            known: set[tuple[str, ...]] = set()
            for moving in reversed(self._placed[account]):
                choices = self._eligible(moving)
                if choices in known:
                    continue
                known.add(choices)
                for other in choices:
                    if other in seen or other in dead:
                        continue
                    came_from[other] = (account, moving)
                    if self._has_room(other):
                        self._shift(other, came_from, number)
                        return True
                    seen.add(other)
                    queue.append(other)
        if seen:
            self._stuck.append(frozenset(seen))
        return False

    def _shift(self, account: str, came_from: Mapping[str, tuple[str, int]], number: int) -> None:
        """Move along the path that ends at *account*, and put *number* where it begins."""
        while account in came_from:
            origin, moving = came_from[account]
            self._placed[origin].remove(moving)
            self._put(moving, account)
            account = origin
        self._put(number, account)

    def _shortage(self, accounts: frozenset[str]) -> Shortage:
        names = tuple(account for account in self._capacity if account in accounts)
        unplaced = sum(1 for number in self.unplaced if self._eligible(number)[0] in accounts)
        capacity = sum(self._capacity[name] for name in names)
        return Shortage(names, capacity + unplaced, capacity)
