"""Log lines: one JSON object each, also for what libraries say through the standard module."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator

import pytest
import structlog

from daemon import log


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_what_a_library_logs_is_an_event_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json", role="worker")

    logging.getLogger("picows.client").warning("WS parser error: %s\nrsv bits: %d", "bad", 3)
    logging.getLogger("quiet").info("not worth a line")

    (line,) = lines(capfd)
    assert (line["event"], line["level"], line["role"]) == ("library_log", "warning", "worker")
    assert (line["logger"], line["message"]) == ("picows.client", "WS parser error: bad\nrsv bits: 3")


def test_a_line_of_another_thread_says_whose_it_is_too(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json", role="writer", pid=7)

    thread = threading.Thread(target=lambda: log.get().info("spill_recovered", records=1))
    thread.start()
    thread.join()

    (line,) = lines(capfd)
    assert (line["role"], line["pid"], line["records"]) == ("writer", 7, 1)


def test_a_line_begins_with_what_happened_how_bad_it_is_and_when(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json", role="writer", pid=7)

    log.get().error("database_away", sqlstate="57P01")

    line = json.loads(capfd.readouterr().err)
    assert list(line) == ["event", "level", "timestamp", "sqlstate", "role", "pid"]
    assert line["timestamp"].endswith("Z")


def test_a_second_configuration_does_not_double_the_lines(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    log.configure("info", "json")

    logging.getLogger("x").error("once")

    assert [line["level"] for line in lines(capfd)] == ["error"]


def test_a_message_that_does_not_fit_its_arguments_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers.clear()  # pytest's own raise what a message raises
    log.configure("info", "json")

    logging.getLogger("x").warning("%d of %d", "one")  # noqa: PLE1206 - as a careless library does

    assert lines(capfd)[0]["message"] == "%d of %d ('one',)"


@pytest.mark.parametrize(("number", "level"), [(logging.CRITICAL, "critical"), (35, "warning"), (99, "critical")])
def test_levels_of_libraries_are_mapped_to_ours(capfd: pytest.CaptureFixture[str], number: int, level: str) -> None:
    log.configure("info", "json")

    logging.getLogger("x").log(number, "message")

    assert lines(capfd)[0]["level"] == level


def test_an_error_that_asyncio_reports_is_one_line_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")

    async def fail_in_callback() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    asyncio.run(fail_in_callback())

    (line,) = lines(capfd)
    assert (line["logger"], line["level"]) == ("asyncio", "error")
    assert "ZeroDivisionError" in str(line["exception"])
