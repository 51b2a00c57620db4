"""A venue of its own that speaks the documented dialect of KIS, knows nothing of Sise, and writes down what it sends.

`python -m tests.chaos.harness_venue --journal FILE --accounts KEY=SYM,SYM KEY=SYM ... --rate N`: prints its port, reads
commands from stdin (`quiet`: no more data, answered by `quiet`). Every record is in the journal, synced, before it is
on a socket. A market goes on while nobody listens: those records are in the journal with socket 0.

Lines of the journal: `open|shut SOCKET KEY NS`, `ack SYMBOL KIND SOCKET NS`, `trade SOCKET SYMBOL CUM SIZE PRICE SIDE
NS`, `book SOCKET SYMBOL NUMBER NS`, `bad SOCKET NUMBER NS`, `quiet NS`. NS: wall clock.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TextIO

from aiohttp import WSMsgType, web

KST = timezone(timedelta(hours=9))
TICK_S = 0.02
SENT_S = 5.0  # a session whose other end is gone takes nothing, for ever
PINGPONG_S = 2.0
BAD_FRAMES_S = 1.0  # one malformed frame a second
MAX_REGISTRATIONS = 41
TRADE, BOOK = "H0STCNT0", "H0STASP0"


@dataclass
class Account:
    """One app key: its symbols, and the one session that may use it."""

    key: str
    symbols: list[str]
    session: web.WebSocketResponse | None = None
    socket: int = 0
    registered: set[tuple[str, str]] = field(default_factory=set)
    cum: dict[str, int] = field(default_factory=dict)
    trades: dict[str, int] = field(default_factory=dict)
    books: dict[str, int] = field(default_factory=dict)
    approvals: set[str] = field(default_factory=set)


def trade_payload(symbol: str, now: datetime, cum: int, size: int, price: int, side: str) -> str:
    """The 47 fields of H0STCNT0."""
    fields = ["0"] * 47
    fields[0], fields[1], fields[2], fields[3] = symbol, f"{now:%H%M%S}", str(price), "2"
    fields[4], fields[5] = "100", "1.25"
    fields[10], fields[11], fields[12], fields[13] = str(price + 10), str(price - 10), str(size), str(cum)
    fields[14], fields[21], fields[33], fields[34] = str(cum * 1000), side, f"{now:%Y%m%d}", "20"
    fields[35], fields[44], fields[46] = "N", "", "2"
    return "^".join(fields)


def book_payload(symbol: str, now: datetime, number: int) -> str:
    """The 63 fields of H0STASP0; the size of the best ask is the record's number."""
    fields = ["0"] * 63
    fields[0], fields[1] = symbol, f"{now:%H%M%S}"
    middle = 50_000 + number % 50 * 10
    for level in range(10):
        fields[3 + level] = str(middle + 10 * (level + 1))
        fields[13 + level] = str(middle - 10 * level)
        fields[23 + level] = str(number if level == 0 else 100 * (level + 1) + number % 97)
        fields[33 + level] = str(200 * (level + 1) + number % 89)
    fields[62] = "2"
    return "^".join(fields)


class Venue:
    """REST approval and WebSocket of one address; the markets of all accounts."""

    def __init__(self, accounts: list[Account], journal: TextIO, rate: float, seed: str) -> None:
        self._accounts = {account.key: account for account in accounts}
        self._journal = journal
        self._rate = rate
        self._random = random.Random(seed)
        self._sockets = itertools.count(1)
        self._numbers = itertools.count(1)
        self.is_quiet = False
        self._sending = 0  # accounts whose last frames are not with the kernel yet

    def write(self, *lines: str) -> None:
        """Append to the journal, and return when the disk has it."""
        self._journal.write("".join(line + "\n" for line in lines))
        self._journal.flush()
        os.fdatasync(self._journal.fileno())

    async def approve(self, request: web.Request) -> web.Response:
        """POST /oauth2/Approval."""
        body = await request.json()
        account = self._accounts.get(body.get("appkey"))
        if account is None or body.get("grant_type") != "client_credentials" or not body.get("secretkey"):
            return web.json_response({"error_code": "EGW00103", "error_description": "invalid"}, status=403)
        approval = f"{account.key}-{next(self._numbers)}"
        account.approvals.add(approval)
        return web.json_response({"approval_key": approval})

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """GET upgrade, any path."""
        session = web.WebSocketResponse(autoping=True)
        account: Account | None = None
        try:
            await session.prepare(request)
            async for message in session:
                if message.type is not WSMsgType.TEXT:
                    continue
                told = json.loads(message.data)
                if told["header"].get("tr_id") == "PINGPONG":
                    continue
                account = await self._register(session, account, told)
                if account is None:
                    break
        except ConnectionError:
            pass
        finally:
            if account is not None and account.session is session:
                self.write(f"shut {account.socket} {account.key} {time.time_ns()}")
                account.session, account.socket = None, 0
                account.registered.clear()
        return session

    async def _register(
        self, session: web.WebSocketResponse, account: Account | None, told: dict[str, Any]
    ) -> Account | None:
        approval = told["header"]["approval_key"]
        tr_id, tr_key = told["body"]["input"]["tr_id"], told["body"]["input"]["tr_key"]
        if account is None:
            account = next((one for one in self._accounts.values() if approval in one.approvals), None)
            if account is None:
                await session.send_str(reply("9", "OPSP0011", "invalid approval : NOT FOUND", "(null)", ""))
                return None
            if account.session is not None:
                await session.send_str(reply("9", "OPSP8996", "ALREADY IN USE appkey", "(null)", ""))
                return None
            account.session, account.socket = session, next(self._sockets)
            self.write(f"open {account.socket} {account.key} {time.time_ns()}")
        item = (tr_id, tr_key)
        if told["header"]["tr_type"] == "2":
            account.registered.discard(item)
            await session.send_str(reply("0", "OPSP0001", "UNSUBSCRIBE SUCCESS", tr_id, tr_key))
        elif item in account.registered:
            await session.send_str(reply("1", "OPSP0002", "ALREADY IN SUBSCRIBE", tr_id, tr_key))
        elif len(account.registered) >= MAX_REGISTRATIONS:
            await session.send_str(reply("1", "OPSP0008", "MAX SUBSCRIBE OVER", tr_id, tr_key))
        else:
            self.write(f"ack {tr_key} {'trade' if tr_id == TRADE else 'book'} {account.socket} {time.time_ns()}")
            await session.send_str(reply("0", "OPSP0000", "SUBSCRIBE SUCCESS", tr_id, tr_key))
            account.registered.add(item)
        return account

    async def run_market(self, account: Account) -> None:
        """Trades and books of the symbols of one account, for ever; a reader that is slow slows its market."""
        share = self._rate / len(self._accounts)
        begun, made, next_ping, next_bad = time.monotonic(), 0, 0.0, time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            session, socket = account.session, account.socket
            frames: list[str] = []
            if session is not None and now >= next_ping:
                next_ping = now + PINGPONG_S
                stamp = f"{datetime.now(KST):%Y%m%d%H%M%S}"
                frames.append(json.dumps({"header": {"tr_id": "PINGPONG", "datetime": stamp}}))
            if self.is_quiet:
                begun, made = now, 0
            due = int((now - begun) * share)
            count = min(due - made, 400)
            made = due
            if count > 0:
                frames += self._make_records(account, count, now >= next_bad)
                next_bad = max(next_bad, now + BAD_FRAMES_S) if now >= next_bad else next_bad
            if session is not None and account.socket == socket:
                self._sending += 1
                try:
                    for frame in frames:
                        await session.send_str(frame)
                except ConnectionError:
                    pass
                finally:
                    self._sending -= 1

    async def be_quiet(self) -> None:
        """Make no more records; return when those that were made have left, but for sessions that take nothing."""
        self.is_quiet = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SENT_S):
                while self._sending:
                    await asyncio.sleep(TICK_S)
        self.write(f"quiet {time.time_ns()}")

    def _make_records(self, account: Account, count: int, with_bad: bool) -> list[str]:
        """Make the next records, put them into the journal, and return the frames of those that somebody gets."""
        now, lines, frames, pending = datetime.now(KST), [], [], []
        for _ in range(count):
            symbol = self._random.choice(account.symbols)
            if self._random.random() < 0.6:
                number = account.trades[symbol] = account.trades.get(symbol, 0) + 1
                size, price = 1 + number * 7 % 50, 50_000 + number * 13 % 1_000
                cum = account.cum[symbol] = account.cum.get(symbol, 0) + size
                side = "1" if number % 2 else "5"
                socket = account.socket if (TRADE, symbol) in account.registered else 0
                lines.append(f"trade {socket} {symbol} {cum} {size} {price} {side} {time.time_ns()}")
                if socket:
                    pending.append(trade_payload(symbol, now, cum, size, price, side))
                if len(pending) == 5:
                    frames.append(f"0|{TRADE}|{len(pending):03d}|" + "^".join(pending))
                    pending.clear()
            else:
                number = account.books[symbol] = account.books.get(symbol, 0) + 1
                socket = account.socket if (BOOK, symbol) in account.registered else 0
                lines.append(f"book {socket} {symbol} {number} {time.time_ns()}")
                if socket:
                    if pending:  # the order of the journal is the order on the wire
                        frames.append(f"0|{TRADE}|{len(pending):03d}|" + "^".join(pending))
                        pending.clear()
                    frames.append(f"0|{BOOK}|001|" + book_payload(symbol, now, number))
        if pending:
            frames.append(f"0|{TRADE}|{len(pending):03d}|" + "^".join(pending))
        if with_bad and account.registered:
            number = next(self._numbers)
            lines.append(f"bad {account.socket} {number} {time.time_ns()}")
            frames.append(f"0|{TRADE}|001|bad-{number}-bad^short")
        self.write(*lines)
        return frames


def reply(rt_cd: str, msg_cd: str, msg1: str, tr_id: str, tr_key: str) -> str:
    """A control reply."""
    body: dict[str, Any] = {"rt_cd": rt_cd, "msg_cd": msg_cd, "msg1": msg1}
    if rt_cd == "0":
        body["output"] = {"iv": "0123456789abcdef", "key": "0123456789abcdef0123456789abcdef"}
    return json.dumps({"header": {"tr_id": tr_id, "tr_key": tr_key, "encrypt": "N"}, "body": body})


async def listen_to_orders(venue: Venue) -> None:
    """Commands of the harness; its end is ours."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if line.strip() == b"quiet":
            await venue.be_quiet()
            print("quiet", flush=True)


async def main() -> None:
    """Serve until stdin is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--accounts", nargs="+", required=True)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--seed", default="0")
    given = parser.parse_args()
    accounts = [Account(key, symbols.split(",")) for key, symbols in (one.split("=") for one in given.accounts)]
    with given.journal.open("a", encoding="ascii") as journal:
        venue = Venue(accounts, journal, given.rate, given.seed)
        application = web.Application()
        application.router.add_post("/oauth2/Approval", venue.approve)
        application.router.add_get("/{path:.*}", venue.stream)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        markets = [asyncio.create_task(venue.run_market(one), name=f"market-{one.key}") for one in accounts]
        await asyncio.wait(
            [asyncio.create_task(listen_to_orders(venue), name="orders"), *markets], return_when=asyncio.FIRST_COMPLETED
        )
        for market in markets:
            if market.done():
                market.result()
            market.cancel()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
