"""Calls in threads: order, laziness, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from facepipe.in_order import AHEAD, in_order


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    """The first call ends last: it waits for the others that may run beside it."""
    beside = threading.Semaphore(0)

    def call(item: int) -> int:
        if item == 0:
            for _ in range(threads - 1):
                assert beside.acquire(timeout=60)
        else:
            beside.release()
        return item * item

    assert list(in_order(call, range(40), threads)) == [i * i for i in range(40)]
    assert list(in_order(call, [], threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_is_taken_than_there_is_room_for(threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(str, items(), threads)
    for place in range(30):
        assert next(results) == str(place)
        assert len(taken) <= place + 1 + threads * (1 + AHEAD)
    results.close()
    assert len(taken) < 100


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_of_the_order_is_raised_and_what_came_before_is_given(threads: int) -> None:
    def call(item: int) -> int:
        if item >= 7:
            raise ValueError(f"item {item}")
        return item

    found = []
    with pytest.raises(ValueError, match="item 7"):
        for result in in_order(call, range(50), threads):
            found.append(result)
    assert found == list(range(7))
