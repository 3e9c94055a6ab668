"""Log records and prints on their way to a hub."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Iterator

import pytest

from tests.recorder import Recorder
from ws_hub.config import HubConfig
from ws_hub.errors import HubFull, HubNotRunning, InvalidName
from ws_hub.process.writers import LogHandler, log_handler, writer
from ws_hub.protocol.message import encode, parse_timestamp

# --- log_handler ---------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("shop.orders")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def attach(log: logging.Logger, hub: Recorder, level: int = 0) -> LogHandler:
    handler = log_handler(hub, "logs", level)
    log.addHandler(handler)
    return handler


def test_a_record_becomes_an_event_on_the_channel(hub: Recorder, log: logging.Logger) -> None:
    attach(log, hub)
    log.warning("order %d is late", 7)
    (message,) = hub.messages
    assert (message.type, message.channel, message.data["event"]) == ("event", "logs", "log")
    data = message.data["data"]
    assert data["level"] == "WARNING"
    assert data["name"] == "shop.orders"
    assert data["message"] == "order 7 is late"
    assert data["thread"] == threading.current_thread().name
    parse_timestamp(data["time"])
    assert hub.timeouts == [0]


def test_records_below_the_level_are_left_out(hub: Recorder, log: logging.Logger) -> None:
    attach(log, hub, logging.ERROR)
    log.warning("no")
    log.error("yes")
    assert [m.data["data"]["message"] for m in hub.messages] == ["yes"]


def test_a_record_with_an_exception_has_its_traceback(hub: Recorder, log: logging.Logger) -> None:
    attach(log, hub)
    try:
        raise KeyError("sku")
    except KeyError:
        log.exception("failed")
    assert hub.messages[0].data["data"]["exception"].endswith("KeyError: 'sku'")


def test_an_empty_exc_info_is_left_out(hub: Recorder, log: logging.Logger) -> None:
    attach(log, hub)
    log.error("failed", exc_info=(None, None, None))
    assert "exception" not in hub.messages[0].data["data"]


def test_a_formatter_makes_the_message(hub: Recorder, log: logging.Logger) -> None:
    attach(log, hub).setFormatter(logging.Formatter("<%(message)s>"))
    log.info("hello")
    assert hub.messages[0].data["data"]["message"] == "<hello>"


def test_a_huge_record_is_cut_and_stays_below_64_kib(hub: Recorder, log: logging.Logger) -> None:
    attach(log, hub)
    try:
        raise ValueError("\x01" * 100_000)
    except ValueError:
        log.exception("\x01" * 1_000_000)
    assert len(encode(hub.messages[0])) < 65_536


def test_a_lone_surrogate_is_replaced(hub: Recorder, log: logging.Logger) -> None:
    attach(log, hub)
    log.info("caf\udce9")
    assert hub.messages[0].data["data"]["message"] == "caf?"


def test_records_that_the_hub_refuses_are_counted_as_dropped(
    hub: Recorder, log: logging.Logger
) -> None:
    handler = attach(log, hub)
    hub.full = 1
    log.info("full")
    hub.running = False
    log.info("stopped")
    hub.running = True
    log.info("heard")
    assert handler.dropped == 2
    assert len(hub.messages) == 1


def test_records_of_ws_hub_itself_are_left_out(hub: Recorder) -> None:
    handler = log_handler(hub, "logs")
    for name in ("ws_hub", "ws_hub.hub.hub", "ws_hubbub"):
        handler.handle(logging.LogRecord(name, logging.INFO, "", 1, "x", None, None))
    assert [m.data["data"]["name"] for m in hub.messages] == ["ws_hubbub"]
    assert handler.dropped == 0
    handler.close()


def test_records_logged_while_one_is_published_are_dropped(
    hub: Recorder, log: logging.Logger
) -> None:
    attach(log, hub)
    hub.on_publish = lambda message: log.error("while sending %s", message.type)
    log.info("once")
    log.info("twice")
    assert [m.data["data"]["message"] for m in hub.messages] == ["once", "twice"]


def test_a_record_that_cannot_be_formatted_goes_to_handle_error(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = log_handler(hub, "logs")
    failed: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", failed.append)
    for text, args in (("%d", ("no number",)), ("fine", None)):
        handler.handle(logging.LogRecord("shop", logging.INFO, "", 1, text, args, None))
    handler.close()
    assert [record.msg for record in failed] == ["%d"]
    assert [m.data["data"]["message"] for m in hub.messages] == ["fine"]


def test_a_bad_channel_is_refused_at_once(hub: Recorder) -> None:
    with pytest.raises(InvalidName):
        log_handler(hub, "no spaces")


def test_the_hubs_own_rule_for_channels_counts() -> None:
    loose = Recorder()
    loose.config = HubConfig(channel_name=lambda name: " " in name)
    handler = log_handler(loose, "with spaces")
    handler.close()
    with pytest.raises(InvalidName):
        log_handler(loose, "without")


# --- writer --------------------------------------------------------------------------------


def test_each_printed_line_is_one_message(hub: Recorder) -> None:
    with writer(hub, "job") as file:
        print("one", 1, file=file)
        print("two\nthree", file=file)
        assert hub.texts() == ["one 1", "two", "three"]
    assert {m.channel for m in hub.messages} == {"process:job"}


def test_flush_publishes_the_line_so_far_and_close_the_rest(hub: Recorder) -> None:
    file = writer(hub, "job")
    print("half", end="", file=file)
    assert hub.texts() == []
    file.flush()
    file.flush()
    assert hub.texts() == ["half\r"]
    print(" a line", file=file, flush=True)
    print("rest", end="", file=file)
    file.close()
    file.close()
    assert hub.texts() == ["half\r", "half a line", "rest"]


def test_a_closed_writer_raises_value_error(hub: Recorder) -> None:
    file = writer(hub, "job")
    file.close()
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        file.write("x")
    with pytest.raises(ValueError, match="closed"):
        file.flush()


def test_it_is_a_text_file(hub: Recorder) -> None:
    with writer(hub, "job") as file:
        assert file.writable()
        assert not file.readable()
        assert not file.isatty()
        assert file.encoding == "utf-8"
        assert file.write("häh\n") == 4
        with pytest.raises(TypeError):
            file.write(b"bytes")  # type: ignore[arg-type] # the point of the test
        file.writelines(["a\n", "b\n"])
    assert hub.texts() == ["häh", "a", "b"]


def test_a_lone_surrogate_is_replaced_in_prints(hub: Recorder) -> None:
    with writer(hub, "job") as file:
        print("caf\udce9", file=file)
    assert hub.texts()[0].startswith("caf\ufffd")
    encode(hub.messages[0])


def test_a_bad_process_id_is_refused_and_leaves_nothing(hub: Recorder) -> None:
    with pytest.raises(InvalidName):
        writer(hub, "a:b")
    gc.collect()
    assert hub.messages == []


def test_standard_output_can_be_redirected(hub: Recorder) -> None:
    with writer(hub, "job") as file, contextlib.redirect_stdout(file):
        print("to whom it may concern")
    assert hub.texts() == ["to whom it may concern"]


def test_lines_of_many_threads_stay_whole_and_in_the_order_of_each(hub: Recorder) -> None:
    barrier = threading.Barrier(4)

    def work(name: int) -> None:
        barrier.wait(5)
        for number in range(200):
            print(name, number, sep=" ", end="\n", file=file)

    with writer(hub, "job") as file:
        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    seen = [text.split() for text in hub.texts()]
    assert len(seen) == 800
    for name in range(4):
        mine = [int(number) for who, number in seen if who == str(name)]
        assert mine == list(range(200))


def test_close_publishes_unfinished_lines_of_other_threads(hub: Recorder) -> None:
    file = writer(hub, "job")
    print("mine", end="", file=file)
    thread = threading.Thread(target=lambda: print("theirs", end="", file=file))
    thread.start()
    thread.join(5)
    file.close()
    assert hub.texts() == ["mine", "theirs"]


def test_hub_errors_are_raised_by_print(hub: Recorder) -> None:
    with writer(hub, "job") as file:
        hub.full = 1
        with pytest.raises(HubFull):
            print("x", file=file)
        hub.running = False
        with pytest.raises(HubNotRunning):
            print("x", file=file)
