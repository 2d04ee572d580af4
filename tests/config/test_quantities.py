"""Amounts with their units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.config import load_recipe
from wafergpt.config.quantities import time_in_seconds, token_count
from wafergpt.errors import InputError


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("375M tokens", 375_000_000), ("2.5B", 2_500_000_000), ("12k tokens", 12_000), ("7", 7)],
)
def test_token_counts(text: str, tokens: int) -> None:
    assert token_count(text) == tokens


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_a_time_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert time_in_seconds(f"{days}d {hours}h {minutes}m {seconds}s") == expected


@pytest.mark.parametrize("text", ["", " ", "m", "soon", "-3m", "3m2h", "1e3", "1h30", "2 5"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        time_in_seconds(text)


def test_horizons_are_read_with_their_units() -> None:
    train = load_recipe(None, ["train.tokens=1.5M", "train.seconds=1h30m"]).train
    assert (train.tokens, train.seconds) == (1_500_000, 5400)
    assert load_recipe(None, ["train.seconds=1e3"]).train.seconds == 1000
    with pytest.raises(InputError, match=r"^train\.tokens: 'many' is not a number of tokens"):
        load_recipe(None, ["train.tokens=many"])
    with pytest.raises(InputError, match=r"^train\.seconds: '30 fortnights' is not a time"):
        load_recipe(None, ["train.seconds=30 fortnights"])
