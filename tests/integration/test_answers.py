"""What a server's function answers to a request: data, a HubError, or an error of its own."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tests.integration.apps.live import live
from ws_hub import Client, HubError, Message

INTERNAL = {"type": "error", "code": "internal", "data": "internal error"}


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "timestamp"}


def refuse(client: Client, message: Message) -> Any:
    raise HubError("not_found", f"there is no order {message.data}")


def test_a_hub_error_reaches_the_peer_with_its_code_and_text_and_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live() as site, site.peer() as peer:
        site.hub.on("order")(refuse)
        peer.send_json({"type": "order", "id": 7, "data": 3})
        answer = peer.recv_json()
        assert (answer["type"], answer["id"]) == ("error", 7)
        assert (answer["code"], answer["data"]) == ("not_found", "there is no order 3")
        assert site.hub.stats().callback_errors == 0
        assert site.client().last_error == ""
    assert "failed" not in caplog.text


def test_a_hub_error_without_an_id_is_an_error_without_one() -> None:
    with live() as site, site.peer() as peer:
        site.hub.on("order")(refuse)
        peer.send_json({"type": "order", "data": 3})
        answer = peer.recv_json()
        assert (answer["type"], answer["code"]) == ("error", "not_found")
        assert "id" not in answer


def test_any_other_exception_is_internal_and_keeps_its_text() -> None:
    with live() as site, site.peer() as peer:

        @site.hub.on("order")
        def fail(client: Client, message: Message) -> None:
            raise RuntimeError("the password is 1234")

        peer.send_json({"type": "order", "id": 7})
        answer = peer.recv_json()
        assert (answer["code"], answer["data"]) == ("internal", "internal error")
        assert site.hub.stats().callback_errors == 1


@pytest.mark.parametrize("registered", ["on_message", "on"])
def test_fault_109_an_exception_is_answered_without_an_id_too(registered: str) -> None:
    def fail(client: Client, message: Message) -> None:
        raise RuntimeError("the password is 1234")

    settings = {"on_message": fail} if registered == "on_message" else {}
    with live(**settings) as site, site.peer() as peer:
        if registered == "on":
            site.hub.on("order")(fail)
        peer.send_json({"type": "order"})
        assert without_time(peer.recv_json()) == INTERNAL
        peer.send_json({"type": "ping", "id": 1})  # once, and the connection stays
        assert peer.recv_json()["type"] == "pong"


def test_a_hub_error_of_on_message_answers_before_the_function_of_the_type() -> None:
    called: list[Any] = []
    with live(on_message=refuse) as site, site.peer() as peer:
        site.hub.on("order")(lambda client, message: called.append(message.data))
        peer.send_json({"type": "order", "id": 7, "data": 3})
        assert peer.recv_json()["code"] == "not_found"
        assert called == []


def test_a_hub_error_whose_text_has_no_utf_8_form_is_internal() -> None:
    with live() as site, site.peer() as peer:

        @site.hub.on("order")
        def fail(client: Client, message: Message) -> None:
            raise HubError("odd", "\ud800")

        peer.send_json({"type": "order", "id": 7})
        assert peer.recv_json()["code"] == "internal"
        peer.send_json({"type": "ping", "id": 8})
        assert peer.recv_json()["id"] == 8


@pytest.mark.parametrize("given", [(404, "no"), ("", "no"), ("no", None), (None, "no")])
def test_a_hub_error_takes_a_code_and_a_text(given: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match='HubError\\("not_found"'):
        HubError(*given)


def test_a_hub_error_shows_code_and_text_and_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(HubError("limit", "at most 5")))
    assert (error.code, error.text) == ("limit", "at most 5")
    assert str(error) == "'limit': 'at most 5'"
