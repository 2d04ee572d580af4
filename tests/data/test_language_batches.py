from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wafergpt.data.batches import parts, permute
from wafergpt.data.continuation_batches import ContinuationBatches
from wafergpt.data.labelled_batches import LabelledBatches, cut_tokens
from wafergpt.data.language_batches import LanguageBatches


class Counting:
    """A stream whose tokens say where they stand."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def take(self, start: int, length: int) -> NDArray[np.integer]:
        return np.arange(start, start + length)


@given(st.integers(1, 3000), st.binary(max_size=8))
def test_a_permutation_meets_every_place_once(size: int, key: bytes) -> None:
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


def test_a_permutation_shuffles() -> None:
    places = permute(np.arange(10_000), 10_000, b"key")
    assert abs(np.corrcoef(places, np.arange(10_000))[0, 1]) < 0.03
    assert (np.diff(places) == 1).mean() < 0.001
    assert not np.array_equal(places, permute(np.arange(10_000), 10_000, b"kez"))


@given(first=st.integers(0, 500), n=st.integers(1, 30), cut=st.integers(1, 10))
@settings(max_examples=30)
def test_a_batch_is_a_pure_function_of_its_place(first: int, n: int, cut: int) -> None:
    batches = LanguageBatches(Counting(1001), 10, "f", seed=3)
    whole = batches.batch(first, n)
    again = LanguageBatches(Counting(1001), 10, "f", seed=3)
    pieces = [again.batch(*part)["tokens"] for part in parts(first, n, cut)]
    assert np.array_equal(np.concatenate(pieces), whole["tokens"])
    assert np.array_equal(whole["targets"], whole["tokens"] + 1)
    assert whole.weight == n * 10


def test_each_epoch_sees_every_window_once_in_another_order() -> None:
    batches = LanguageBatches(Counting(1001), 10, "f", seed=0)
    assert batches.samples_per_epoch == 100
    epochs = [batches.batch(e * 100, 100)["tokens"][:, 0].tolist() for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(0, 1000, 10))
    assert epochs[0] != epochs[1]
    other_seed = LanguageBatches(Counting(1001), 10, "f", seed=1)
    other_corpus = LanguageBatches(Counting(1001), 10, "g", seed=0)
    for other in (other_seed, other_corpus):
        assert other.batch(0, 100)["tokens"][:, 0].tolist() != epochs[0]


def test_validation_has_one_order_that_is_drawn_from_everywhere() -> None:
    batches = LanguageBatches(Counting(1001), 10, "f", seed=None)
    first = batches.batch(0, 100)["tokens"][:, 0].tolist()
    assert sorted(first) == list(range(0, 1000, 10))
    assert batches.batch(100, 100)["tokens"][:, 0].tolist() == first
    # Of two sources, one after the other, both are among the first windows.
    assert 5 <= sum(start < 500 for start in first[:20]) <= 15


def test_too_short_a_stream() -> None:
    with pytest.raises(ValueError, match="10 tokens are less than one sequence of 10"):
        LanguageBatches(Counting(10), 10, "f", seed=0)


def test_documents_are_numbered_and_their_ends_predict_nothing() -> None:
    class Ends(Counting):
        def take(self, start: int, length: int) -> NDArray[np.integer]:
            return np.array([5, 0, 6, 7, 0, 8, 9])[start : start + length]

    batch = LanguageBatches(Ends(7), 6, "f", seed=None, end_of_text=0).batch(0, 1)
    assert batch["documents"] is not None
    assert batch["documents"].tolist() == [[0, 0, 1, 1, 1, 2]]
    assert batch["targets"].tolist() == [[0, -100, 7, 0, -100, 9]]
    assert batch.weight == 4


def test_labelled_batches_keep_rows_together_and_pad_little() -> None:
    rng = np.random.default_rng(0)
    texts = [np.full(n, n) for n in rng.integers(1, 300, 1000)]
    targets = np.array([len(text) % 7 for text in texts])
    batches = LabelledBatches(texts, targets, 32, seed=0)
    seen: list[int] = []
    slots = used = 0
    for first in range(0, 1000, 32):
        batch = batches.batch(first, min(32, 1000 - first))
        assert batch["lengths"] is not None
        for row, length, target in zip(
            batch["tokens"], batch["lengths"], batch["targets"], strict=True
        ):
            assert (row[:length] == length).all()
            assert (row[length:] == 0).all()
            assert target == length % 7
        seen += batches.indices(first, len(batch["tokens"])).tolist()
        slots += batch["tokens"].numel()
        used += int(batch["lengths"].sum())
    assert sorted(seen) == list(range(1000))
    assert used / slots > 0.85
    assert batches.indices(1000, 1000).tolist() != seen


def test_class_weights_are_the_weight_of_a_batch() -> None:
    texts = [np.ones(3, dtype=np.int64)] * 4
    batches = LabelledBatches(texts, np.array([0, 0, 0, 1]), 4, None, np.array([0.5, 2.5]))
    batch = batches.batch(0, 4)
    assert batch.weight == 4.0
    assert batch["weights"] is not None
    assert sorted(batch["weights"].tolist()) == [0.5, 0.5, 0.5, 2.5]


@pytest.mark.parametrize(
    ("cut", "kept"),
    [("end", [0, 1, 2, 3, 4]), ("start", [5, 6, 7, 8, 9]), ("middle", [0, 1, 7, 8, 9])],
)
def test_cuts(cut: str, kept: list[int]) -> None:
    assert cut_tokens(range(10), 5, cut).tolist() == kept  # type: ignore[arg-type]
    assert cut_tokens(range(4), 5, cut).tolist() == [0, 1, 2, 3]  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_continuations_learn_the_next_tokens_that_are_asked_for(
    sizes: list[tuple[int, int]], size: int, first: int
) -> None:
    # Tokens say where they stand, and in which text.
    texts = [np.arange(a + b) + 100 * (i + 1) for i, (a, b) in enumerate(sizes)]
    learned = [np.arange(a + b) >= a for a, b in sizes]
    prompts = np.array([a for a, _ in sizes])
    batches = ContinuationBatches(texts, learned, size, seed=1, prompts=prompts)
    batch, chosen = batches.batch(first, size), batches.indices(first, size)
    assert batch["tokens"].shape[1] == batches.length(first, size)
    assert batch.weight == sum(sizes[i][1] for i in chosen)
    for row, index in enumerate(chosen):
        read = len(texts[index]) - 1
        assert batch["tokens"][row, :read].tolist() == texts[index][:-1].tolist()
        targets = batch["targets"][row]
        assert targets[targets >= 0].tolist() == texts[index][learned[index]].tolist()
        places = (targets >= 0).nonzero()[:, 0]
        assert (batch["tokens"][row, places] + 1 == targets[places]).all()
        assert batch["prompts"][row] == prompts[index]
