"""A smaller vocabulary reads the same texts as before, by the `tokenizers` library itself."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from wafergpt.data.smaller_vocabulary import without_unused
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError

WORDS = ["the", "there", "then", "other", "mother", "and", "hand", "handle", "é", "naïve", "film",
         "films", "loved", "glove", "love", "lovely", "1999", "19", "漢字", "😀", "  ",
         "\n"]  # fmt: skip


@cache
def trained() -> Tokenizer:
    texts = [f"{a} {b}{c}" for a in WORDS for b in WORDS for c in ("", "s", " film")]
    return Tokenizer.train(texts, 400, exactly=False)


TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), max_size=12).map(" ".join)


def ids_of(texts: list[str], tokenizer: Tokenizer) -> set[int]:
    return {index for ids in tokenizer.encode_batch(texts) for index in ids}


@settings(max_examples=60)
@given(st.lists(TEXTS, max_size=6), TEXTS, st.booleans())
def test_texts_of_used_tokens_are_read_as_before(
    texts: list[str], other: str, ignore_merges: bool
) -> None:
    whole = trained()
    if ignore_merges:
        definition = whole.definition
        definition["model"]["ignore_merges"] = True
        whole = Tokenizer(json.dumps(definition))
    smaller, left = without_unused(whole, ids_of(texts, whole))
    assert smaller.vocab_size == len(left) < whole.vocab_size
    for text in texts:
        ids = smaller.encode(text)
        assert [left[index] for index in ids] == whole.encode(text)
    # Whatever else is read has tokens too, and comes back.
    assert smaller.decode(smaller.encode(other)) == other
    assert [smaller.token(n) for n in range(len(left))] == [whole.token(index) for index in left]
    assert smaller.token(smaller.end_of_text) == whole.token(whole.end_of_text)
    again, same = without_unused(smaller, ids_of(texts, smaller))
    assert same == list(range(len(left)))
    assert again.encode(other) == smaller.encode(other)


def test_bytes_stay_where_nothing_is_read() -> None:
    smaller, _ = without_unused(trained(), set())
    assert smaller.vocab_size == 257
    assert smaller.decode(smaller.encode("déjà 😀")) == "déjà 😀"


@pytest.mark.slow
def test_gpt2s_own_vocabulary(real_data: Path) -> None:
    """In two files of an older form, whose end of text is its last token."""
    whole = Tokenizer.load(real_data / "gpt2_bpe")
    text = "It's a film that I loved: naïve «façades», 1999! " * 3
    smaller, left = without_unused(whole, set(whole.encode(text)))
    assert [left[index] for index in smaller.encode(text)] == whole.encode(text)
    assert smaller.vocab_size < 400
    assert smaller.token(smaller.end_of_text) == "<|endoftext|>"


def test_added_tokens_keep_their_place_in_texts() -> None:
    backend = Backend(models.BPE())
    backend.decoder = decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    backend.train_from_iterator([" ".join(WORDS) * 3], trainer)
    backend.add_tokens(["[user]"])
    backend.add_special_tokens(["<|endoftext|>"])
    whole = Tokenizer(backend.to_str())
    text = "the [user] loved"
    smaller, left = without_unused(whole, set(whole.encode(text)))
    assert [left[index] for index in smaller.encode(text)] == whole.encode(text)
    assert "[user]" in [smaller.token(index) for index in smaller.encode(text)]
    assert smaller.decode(smaller.encode(text)) == text


def test_another_kind_is_refused() -> None:
    vocab = [("<unk>", 0.0), ("<|endoftext|>", -1.0), ("a", -2.0)]
    backend = Backend(models.Unigram(vocab, unk_id=0))
    backend.add_special_tokens(["<|endoftext|>"])
    with pytest.raises(InputError, match="a BPE vocabulary alone, and this one is Unigram"):
        without_unused(Tokenizer(backend.to_str()), set())
