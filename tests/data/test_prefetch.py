"""Reading ahead changes when something is read, and never what."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.trainers import engine_of, updates
from wafergpt.data.prefetch import Prefetch


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3)), max_size=12))
def test_any_order_of_places_reads_what_was_asked(places: list[tuple[int, int, int]]) -> None:
    ahead = Prefetch(lambda first, size: list(range(first, first + size)))
    for first, size, next_size in places:
        assert ahead.take(first, size, next_size) == list(range(first, first + size))
    ahead.close()


def test_the_next_place_is_read_in_a_thread_before_it_is_asked_for() -> None:
    read: list[tuple[int, int, str]] = []
    second = threading.Event()

    def reading(first: int, size: int) -> int:
        read.append((first, size, threading.current_thread().name.split("_")[0]))
        if len(read) == 2:
            second.set()
        return first

    ahead = Prefetch(reading)
    ahead.take(0, 4, 8)
    assert second.wait(10)
    ahead.take(4, 8, 8)
    ahead.close()
    assert read[:2] == [(0, 4, "MainThread"), (4, 8, "prefetch")]
    assert [place[:2] for place in read].count((4, 8)) == 1


def test_what_fails_in_the_thread_is_raised_where_it_is_asked_for() -> None:
    def reading(first: int, size: int) -> int:
        if first:
            raise OSError("the disk is gone")
        return first

    ahead = Prefetch(reading)
    ahead.take(0, 4, 4)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.take(4, 4, 4)
    ahead.close()


def test_updates_that_read_ahead_have_the_same_bits() -> None:
    phases = ("train.first_steps=3", "train.first_batch_size=6", "train.micro_batch_size=6")
    plain, reading_ahead = engine_of(*phases), engine_of(*phases)
    reading_ahead._ahead = Prefetch(reading_ahead._read)
    pairs = zip(updates(plain), updates(reading_ahead), strict=True)
    assert all((a.loss, a.grad_norm) == (b.loss, b.grad_norm) for a, b in pairs)
    assert reading_ahead._ahead._ahead is not None
    reading_ahead.close("run")
