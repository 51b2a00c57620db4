"""What Redis does to a publisher on a bad day: each trouble is survived, counted, and over when it is over."""

import contextlib
import itertools
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from daemon.embedded import EmbeddedRedis
from tests.integration.publisher_rig import RedisFactory, Rig, Subscriber, counted, wait_until
from tests.reference.packed_records import Trade

SMALL_RING = 2 << 20


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.writer.close()


@contextlib.contextmanager
def client_of(server: EmbeddedRedis) -> Iterator[Any]:  # Any: redis-py types replies for every protocol at once
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def refuse_to_save(server: EmbeddedRedis) -> None:
    """A disk that takes no snapshot: MISCONF."""
    (server.directory / "dump.rdb").mkdir()
    (server.directory / "dump.rdb" / "in the way").touch()
    with client_of(server) as client:
        client.config_set("appendonly", "no")
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a save that fails")


def save_again(server: EmbeddedRedis) -> None:
    (server.directory / "dump.rdb" / "in the way").unlink()
    (server.directory / "dump.rdb").rmdir()
    with client_of(server) as client:
        client.bgsave()


def configure(server: EmbeddedRedis, **settings: str) -> None:
    with client_of(server) as client:
        for name, value in settings.items():
            client.config_set(name.replace("_", "-"), value)


def demote(server: EmbeddedRedis, host: str = "127.0.0.1", port: str = "1") -> None:
    with client_of(server) as client:
        client.execute_command("REPLICAOF", host, port)


Act = Callable[[EmbeddedRedis], None]
TROUBLES: dict[str, tuple[Act, Act]] = {
    "OOM": (lambda server: configure(server, maxmemory="1"), lambda server: configure(server, maxmemory="0")),
    "MISCONF": (refuse_to_save, save_again),
    "READONLY": (demote, lambda server: demote(server, "NO", "ONE")),
}


@pytest.mark.requirement("F56", "QG-IT-01")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_redis_that_refuses_for_a_while_gets_everything_afterwards(
    rig: Rig, own_redis: RedisFactory, trouble: str, capfd: pytest.CaptureFixture[str]
) -> None:
    begin, end = TROUBLES[trouble]
    server = own_redis()
    seqs = rig.put(*[Trade()] * 10)
    with rig.publisher(server.url, streams=("all",)):
        wait_until(lambda: rig.published() == 10, "the first messages")
        begin(server)
        seqs += rig.put(*[Trade()] * 10)
        wait_until(lambda: rig.counters.get("publish_errors") > 2, trouble)
        assert rig.published() == 10
        end(server)
        wait_until(lambda: rig.published() == 20, "the rest")

    assert counted(server.url) == {"ticker.kr": 20}
    with client_of(server) as client:
        assert [entry for entry, _ in client.xrange("stream:ticker.kr:0")] == [f"{seq}-0" for seq in seqs]
    assert trouble in capfd.readouterr().out


@pytest.mark.requirement("F56", "BP-01")
@pytest.mark.parametrize("trouble", ["SIGSTOP", "OOM"])
def test_however_long_redis_takes_nothing_memory_is_bounded_and_what_is_given_up_is_counted(
    tmp_path: Path, own_redis: RedisFactory, trouble: str
) -> None:
    rig = Rig(tmp_path, capacity_bytes=SMALL_RING)
    server = own_redis()
    begin: Act
    end: Act
    begin, end = (
        TROUBLES["OOM"]
        if trouble == "OOM"
        else (lambda s: os.kill(s.pid, signal.SIGSTOP), lambda s: os.kill(s.pid, signal.SIGCONT))
    )
    records = [Trade()] * 100
    with rig.publisher(server.url, timeout_s=0.2, streams=("all",)):
        total = len(rig.put(Trade()))
        wait_until(lambda: rig.published() == 1, "the first message")
        begin(server)
        sizes = []
        for _ in range(1000):  # the ring ten times over
            rig.wait_room()
            total += len(rig.put(*records))
            sizes.append(psutil.Process().memory_info().rss)
        end(server)
        wait_until(lambda: rig.lag() == 0 and rig.published() > 1, "what is left")

    dropped, lapped = rig.counters.get("records_dropped_on_redis"), rig.counters.get("publish_lapped")
    assert lapped == 0
    assert dropped > total / 2
    assert rig.published() + dropped == total
    with client_of(server) as client:
        assert int(client.get("published:dropped:ticker.kr")) == dropped
    assert counted(server.url) == {"ticker.kr": rig.published()}
    assert max(sizes) - sizes[200] < 4 << 20
    rig.writer.close()


@pytest.mark.requirement("F56")
def test_a_failover_to_another_server_costs_nobody_a_message_that_it_had_not(rig: Rig, own_redis: RedisFactory) -> None:
    master, replica = own_redis(), own_redis()
    demote(replica, "127.0.0.1", str(master.port))
    with client_of(replica) as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica")
    forwarder = Forwarder(master.port)
    with rig.publisher(forwarder.url, streams=("all",), timeout_s=0.5):
        seqs = rig.put(*[Trade()] * 50)
        wait_until(lambda: counted(replica.url) == {"ticker.kr": 50}, "the replica to follow")

        master.kill()
        seqs += rig.put(*[Trade()] * 50)
        forwarder.turn_to(replica.port)  # first it is still a replica: READONLY
        wait_until(lambda: rig.counters.get("publish_errors") > 2, "refusals")
        demote(replica, "NO", "ONE")
        wait_until(lambda: rig.published() == 100, "the rest")

    assert counted(replica.url) == {"ticker.kr": 100}
    with client_of(replica) as client:
        assert [entry for entry, _ in client.xrange("stream:ticker.kr:0")] == [f"{seq}-0" for seq in seqs]
    forwarder.close()


@pytest.mark.requirement("F56", "F57")
def test_a_failover_to_a_server_that_lags_leaves_a_gap_in_its_streams(rig: Rig, own_redis: RedisFactory) -> None:
    first, second = own_redis(), own_redis()
    forwarder = Forwarder(first.port)
    with rig.publisher(forwarder.url, streams=("all",)):
        seqs = rig.put(*[Trade()] * 10)
        wait_until(lambda: rig.published() == 10, "the first messages")
        demote(second, "127.0.0.1", str(first.port))
        with client_of(second) as client:
            wait_until(lambda: len(client.xrange("stream:ticker.kr:0")) == 10, "the replica")
        demote(second, "NO", "ONE")
        seqs += rig.put(*[Trade()] * 10)
        wait_until(lambda: rig.published() == 20, "messages that the replica never gets")
        forwarder.turn_to(second.port)
        first.kill()
        seqs += rig.put(*[Trade()] * 10)
        wait_until(lambda: rig.published() == 30, "the rest")

    with client_of(second) as client:
        found = client.xrange("stream:ticker.kr:0")
    ids = [entry for entry, _ in found]
    assert ids == [
        *(f"{seq}-0" for seq in seqs[:10]), f"{seqs[9]}-1", *(f"{seq}-0" for seq in seqs[20:])
    ]  # fmt: skip
    assert '"records":10,"reason":"unknown to Redis"' in found[10][1]["gap"]
    forwarder.close()


@pytest.mark.requirement("F56")
def test_a_wrong_password_is_said_loudly_and_tried_seldom(
    rig: Rig, own_redis: RedisFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    server = own_redis()
    rig.put(Trade())
    configure(server, requirepass="sesame")
    try:
        with rig.publisher(server.url.replace("://", "://:wrong-word@")):
            wait_until(lambda: rig.counters.get("publish_errors") > 1, "refusals")
            with redis.Redis.from_url(server.url, password="sesame") as client:
                client.config_set("requirepass", "wrong-word")
            wait_until(lambda: rig.published() == 1, "the message")
    finally:
        with redis.Redis.from_url(server.url, password="wrong-word") as client:
            client.config_set("requirepass", "")

    logged = capfd.readouterr().out
    assert "redis_needs_attention" in logged
    assert "wrong-word" not in logged


@pytest.mark.requirement("F56")
def test_a_redis_without_a_free_connection_is_tried_again(rig: Rig, own_redis: RedisFactory) -> None:
    server = own_redis()
    with client_of(server) as client:
        client.ping()
        client.config_set("maxclients", "1")
        with rig.publisher(server.url):
            rig.put(Trade())
            wait_until(lambda: rig.counters.get("publish_errors") > 2, "refusals")
            client.config_set("maxclients", "100")
            wait_until(lambda: rig.published() == 1, "the message")


@pytest.mark.requirement("F56")
def test_a_redis_that_is_loading_is_waited_for(rig: Rig, own_redis: RedisFactory) -> None:
    server = own_redis()

    class Loading(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.request.recv(4096):
                self.wfile.write(b"-LOADING Redis is loading the dataset in memory\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Loading) as loading:
        loading.daemon_threads = True
        thread = threading.Thread(target=loading.serve_forever, daemon=True)
        thread.start()
        forwarder = Forwarder(loading.server_address[1])
        with rig.publisher(forwarder.url):
            rig.put(Trade())
            wait_until(lambda: rig.counters.get("publish_errors") > 2, "refusals")
            forwarder.turn_to(server.port)
            wait_until(lambda: rig.published() == 1, "the message")
        loading.shutdown()
        thread.join()
    forwarder.close()


@pytest.mark.requirement("F56")
def test_a_subscriber_that_does_not_read_is_cut_off_alone_and_sees_later_what_it_missed(
    rig: Rig, own_redis: RedisFactory
) -> None:
    server = own_redis()
    configure(server, client_output_buffer_limit="pubsub 200kb 100kb 1")
    heard = Subscriber(server.url)
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"SUBSCRIBE ticker.kr\r\n")
        with rig.publisher(server.url), client_of(server) as client:
            wait_until(lambda: client.pubsub_numsub("ticker.kr")[0][1] == 1, "the deaf one")
            published = 0
            while client.pubsub_numsub("ticker.kr")[0][1]:
                published += len(rig.put(*[Trade()] * 300))
                wait_until(lambda: len(heard.messages) == published, "the messages")  # noqa: B023 - used at once
            late = Subscriber(server.url)  # the deaf one, come back: its last seq was some message before
            rig.put(Trade())
            wait_until(lambda: len(late.messages) == 1, "what follows")

    wait_until(lambda: len(heard.messages) == published + 1, "the one that reads")
    chain = [message for _, message in heard.messages]
    assert all(after["prev_seq"] == before["seq"] for before, after in itertools.pairwise(chain))
    assert late.messages[0][1]["prev_seq"] == chain[-2]["seq"]
    assert rig.counters.get("publish_errors") == 0
    heard.close()
    late.close()


class Forwarder:
    """One address behind which servers change: what a name does at a failover."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def turn_to(self, port: int) -> None:
        """From here on new connections lead to *port*."""
        self._port = port

    def close(self) -> None:
        self._listener.close()
        for one in self._pairs:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    here.close()
                    continue
                self._pairs += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
