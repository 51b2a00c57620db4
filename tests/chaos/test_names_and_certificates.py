"""Who the venue is: names that do not resolve or resolve elsewhere, certificates that are not what they must be."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.certificates import Authority
from tests.chaos.network import Line
from tests.chaos.network_rig import NetworkRig
from tests.rig import wait_for

RATE = 1_000.0
NAME = "feed.venue.test"
OLD_ADDRESS, NEW_ADDRESS = "127.0.0.1", "127.0.0.2"
UNLIMITED = {"connects_per_10min": 1000, "connects_per_10min_address": 1000}
CLIENT_HELLO = b"\x16\x03"
MakeRig = Callable[..., NetworkRig]


@pytest.fixture
def make_rig(tmp_path: Path, postgres_dsn: str, redis_url: str) -> Iterator[MakeRig]:
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(NetworkRig(tmp_path, postgres_dsn, redis_url, **fields))


def why_no_own_hosts_file() -> str:
    """Return why a process cannot be given a hosts file of its own here; empty: it can."""
    if os.geteuid() != 0:
        return "mount namespaces need root"
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "the programs unshare and mount are missing"
    words = ["unshare", "--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]
    done = subprocess.run(words, capture_output=True)
    return "" if done.returncode == 0 else "this machine allows no mount namespace"


def with_own_names(hosts: Path, switch: Path) -> list[str]:
    """Return the launcher of a process that knows only the names of *hosts*, a file that may be rewritten in place."""
    switch.write_text("hosts: files\n")
    script = f'mount --bind {hosts} /etc/hosts && mount --bind {switch} /etc/nsswitch.conf && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


@pytest.mark.requirement("F24", "CH-NET-01")
def test_a_name_that_stops_resolving_and_then_means_another_address_is_followed_without_a_restart(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    if reason := why_no_own_hosts_file():
        pytest.skip(reason)
    rig = make_rig(name=NAME, **UNLIMITED)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{OLD_ADDRESS} {NAME}\n")
    rig.launcher = with_own_names(hosts, tmp_path / "nsswitch.conf")
    rig.start(rate=RATE)
    rig.wait_ready()
    pids = rig.pids("worker")

    hosts.write_text("")
    rig.ws.reset()
    attempts = len(rig.events("connect_failed"))
    wait_for(lambda: len(rig.events("connect_failed")) >= attempts + 2, f"a name that is unknown: {rig.tail()}")
    rig.ws.refuse()
    with Line(rig.ws.target, host=NEW_ADDRESS, port=rig.ws.port) as elsewhere:
        hosts.write_text(f"{NEW_ADDRESS} {NAME}\n")
        rig.wait_ready()
        rig.wait_received(int(RATE))
        assert elsewhere.connections == 1

        rig.finish()

    assert rig.events("child_died") == []
    assert len(pids) == 1


@pytest.mark.requirement("F25")
@pytest.mark.parametrize(
    "wrong",
    [
        "expired",
        pytest.param("another host", marks=pytest.mark.nightly),
        pytest.param("another authority", marks=pytest.mark.nightly),
    ],
)
def test_a_certificate_that_is_not_right_gets_no_byte_and_an_alert_and_the_right_one_is_taken_without_a_restart(
    make_rig: MakeRig, tmp_path: Path, wrong: str
) -> None:
    trusted = Authority(tmp_path)
    bad = {
        "expired": trusted.server_context("localhost", is_expired=True),
        "another host": trusted.server_context("other.test"),
        "another authority": Authority(tmp_path, "a stranger").server_context("localhost"),
    }[wrong]
    rig = make_rig(name="localhost", **UNLIMITED)
    rig.environment["SSL_CERT_FILE"] = str(trusted.path)
    rig.tls = bad
    rig.start_venue(rate=RATE)
    rig.start_daemon()

    # the key is not even asked for, at the wrong peer
    wait_for(lambda: len(rig.events("backing_off")) >= 2, f"refusals: {rig.tail()}")
    rig.rest.refuse()
    rig.rest.take_again(tls=trusted.server_context("localhost"))
    wait_for(lambda: len(rig.events("connect_failed")) >= 2, f"refusals of the feed: {rig.tail()}")
    assert rig.ws.first_bytes == []
    assert rig.happened() == []
    assert "certificate_refused" in rig.alerts()

    rig.ws.refuse()
    rig.ws.take_again(tls=trusted.server_context("localhost"))
    rig.wait_ready()
    rig.wait_received(int(RATE))

    rig.finish()

    assert rig.events("child_died") == []
    assert "key-a0" not in rig.log_path.read_text()


@pytest.mark.requirement("F25")
def test_a_peer_that_stops_speaking_tls_hears_a_client_hello_and_nothing_else(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    trusted = Authority(tmp_path)
    rig = make_rig(name="localhost", **UNLIMITED)
    rig.environment["SSL_CERT_FILE"] = str(trusted.path)
    rig.tls = trusted.server_context("localhost")
    rig.start(rate=RATE)
    rig.wait_ready()

    rig.ws.refuse()
    rig.ws.reset()
    with Line(rig.ws.target, port=rig.ws.port) as plain:
        wait_for(lambda: len(plain.first_bytes) >= 2, f"attempts at a plain peer: {rig.tail()}")
        assert {said[:2] for said in plain.first_bytes} == {CLIENT_HELLO}
    rig.ws.take_again()
    rig.wait_ready()
    rig.wait_received(int(RATE))

    rig.finish()
