"""What is done once at an end."""

from __future__ import annotations

from ws_hub.hub.stop_hooks import StopHooks


def test_each_is_called_once_in_order_unless_taken_back() -> None:
    words, said = StopHooks(), list[str]()
    words.add(lambda: said.append("one"))
    cancel = words.add(lambda: said.append("never"))
    words.add(lambda: said.append("two"))
    cancel()
    cancel()
    for _ in range(2):
        words.run(lambda function: function())
    assert said == ["one", "two"]


def test_a_function_may_add_another_for_the_next_end() -> None:
    words, said = StopHooks(), list[str]()
    words.add(lambda: words.add(lambda: said.append("later")))
    words.run(lambda function: function())
    assert said == []
    words.run(lambda function: function())
    assert said == ["later"]
