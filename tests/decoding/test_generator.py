from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from wafergpt.config import Model
from wafergpt.decoding import generator
from wafergpt.decoding.generator import (
    Sampling,
    TextStream,
    _until_stop,
    _whole_characters,
    stream_tokens,
)
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT

SHAPE = Model(n_layers=2, d_model=32, n_heads=2, seq_len=16, vocab_size=257)


class Bytes:
    """A tokenizer whose tokens are bytes: the hardest case for whole characters."""

    end_of_text, vocab_size = 256, 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


@pytest.fixture
def gpt() -> GPT:
    gpt = GPT(SHAPE.model_copy(update={"init_std": 0.2})).initialize(0)
    return gpt.eval()


def tokens(gpt: GPT, prompt: list[int], **choice: float) -> list[int]:
    return list(stream_tokens(gpt, prompt, Sampling(**choice), end_of_text=-1))  # type: ignore[arg-type]


def test_greedy_equals_reading_everything_again(gpt: GPT) -> None:
    text = [1, 2, 3]
    with torch.no_grad():
        for _ in range(10):
            text.append(int(gpt.logits(gpt(torch.tensor([text])))[0, -1].argmax()))
    assert tokens(gpt, [1, 2, 3], max_tokens=10, temperature=0) == text[3:]


def test_it_continues_beyond_the_context_and_takes_long_prompts(gpt: GPT) -> None:
    assert len(tokens(gpt, [5] * 40, max_tokens=50, temperature=0)) == 50
    assert tokens(gpt, [7] * 30 + [5] * 16, max_tokens=1, temperature=0) == tokens(
        gpt, [5] * 16, max_tokens=1, temperature=0
    )


def test_a_seed_repeats_and_another_differs(gpt: GPT) -> None:
    runs = [tokens(gpt, [1], max_tokens=30, seed=seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_end_of_text_ends(gpt: GPT) -> None:
    greedy = tokens(gpt, [1], max_tokens=10, temperature=0)
    settings = Sampling(max_tokens=10, temperature=0)
    assert (
        list(stream_tokens(gpt, [1], settings, end_of_text=greedy[4]))
        == (greedy[: greedy.index(greedy[4])])
    )


def test_rows_without_a_token_are_never_drawn(gpt: GPT) -> None:
    settings = Sampling(max_tokens=60, temperature=1e9, top_p=1)
    assert max(stream_tokens(gpt, [1], settings, end_of_text=-1)) >= 9
    assert max(stream_tokens(gpt, [1], settings, end_of_text=-1, vocab_size=9)) < 9


def test_what_was_drawn_is_counted_not_what_the_text_would_be_read_as(gpt: GPT) -> None:
    # Broken bytes become three bytes each, when they are read again.
    stream = TextStream(gpt, Bytes(), "a", Sampling(40, temperature=50, top_p=1))
    text = "".join(stream)
    assert len(stream.drawn) <= 40
    assert text == Bytes().decode(stream.drawn)
    assert len(Bytes().encode(text)) > len(stream.drawn)


WRONG: list[dict[str, Any]] = [
    {"temperature": float("nan")}, {"temperature": -1}, {"temperature": float("inf")},
    {"temperature": "0.5"}, {"temperature": True}, {"temperature": None},
    {"top_p": -0.1}, {"top_p": 1.1}, {"top_p": float("nan")}, {"top_p": "1"},
    {"top_k": -1}, {"top_k": 2.0}, {"top_k": True}, {"max_tokens": -1}, {"max_tokens": "9"},
    {"max_tokens": 10.0}, {"seed": -1}, {"seed": 2**63}, {"seed": "a" * 10**6}, {"stop": "end"},
    {"stop": ("",)}, {"stop": (1,)},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:30])
def test_settings_that_are_none_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        Sampling(**wrong)
    assert str(caught.value).startswith(f"{next(iter(wrong))}=")
    assert len(str(caught.value)) < 200


def test_numbers_of_numpy_are_numbers() -> None:
    Sampling(np.int64(3), np.float32(0.5), np.int32(4), np.float64(1), 2**63 - 1, ["a"])  # type: ignore[arg-type]


def test_training_mode_is_restored(gpt: GPT) -> None:
    gpt.train()
    list(TextStream(gpt, Bytes(), "a", Sampling(max_tokens=3)))
    assert gpt.training


class Never(Bytes):
    end_of_text = -1


def test_a_stream_knows_whether_it_was_cut(gpt: GPT) -> None:
    def written(codec: Bytes, *stop: str) -> tuple[str, bool]:
        stream = TextStream(gpt, codec, "a", Sampling(10, temperature=0, stop=stop))
        return "".join(stream), stream.cut

    text, cut = written(Never())
    assert cut
    assert written(Never(), text[-1]) == (text[: text.index(text[-1])], False)
    ending = Bytes()
    ending.end_of_text = tokens(gpt, ending.encode("a"), max_tokens=1, temperature=0)[0]
    assert written(ending) == ("", False)


@given(st.text(max_size=30))
def test_pieces_are_whole_characters(text: str) -> None:
    data = list(text.encode("utf-8", "ignore"))
    pieces = list(_whole_characters(iter(data), Bytes()))
    assert "".join(pieces) == bytes(data).decode()
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_words_keep_their_spaces() -> None:
    words = {"\u2581the": 0, "\u2581quick": 1, "ly": 2}
    backend = Tokenizer(models.WordLevel(words, unk_token="ly"))
    backend.decoder = decoders.Metaspace()

    class Words(Bytes):
        def decode(self, ids: Sequence[int]) -> str:
            text: str = backend.decode(list(ids))
            return text

    assert [*_whole_characters(iter([0, 1, 2, 0]), Words())] == ["the", " quick", "ly", " the"]
    assert [*_whole_characters(iter([1, 2]), Words(), [0])] == [" quick", "ly"]


def test_a_prompt_that_ends_in_a_character_of_several_tokens() -> None:
    """A lone last byte would be part of what follows it."""

    class Fallback(Bytes):
        def decode(self, ids: Sequence[int]) -> str:
            # As a byte fallback does: a run with any broken byte is broken as a whole.
            data = bytes(ids)
            try:
                return data.decode()
            except UnicodeDecodeError:
                return "\ufffd" * len(data)

    codec, prompt = Fallback(), list("ok 😀".encode())
    before = generator._whole_end(prompt, codec)
    assert bytes(before).decode() == "😀"
    pieces = generator._whole_characters(iter("😎 yes".encode()), codec, before)
    assert "".join(pieces) == "😎 yes"
    assert generator._whole_end([], codec) == []


def test_broken_bytes_do_not_wait_for_ever() -> None:
    pieces = list(_whole_characters(iter([0x80] * 20), Bytes()))
    assert len(pieces) == 3
    assert "".join(pieces) == "\ufffd" * 20


@given(
    text=st.text(alphabet="abc", max_size=30),
    sizes=st.lists(st.integers(1, 4), min_size=30, max_size=30),
    stop=st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=3),
)
@example(text="baa", sizes=[1] * 30, stop=["a", "baa"])
@example(text="baa", sizes=[4] * 30, stop=["a", "baa"])
def test_stop_strings_end_the_text_however_it_comes(
    text: str, sizes: list[int], stop: list[str]
) -> None:
    pieces, place = [], 0
    for size in sizes:
        pieces.append(text[place : place + size])
        place += size
    expected = text
    for end in range(len(text) + 1):
        if whole := [s for s in stop if text[:end].endswith(s)]:
            expected = text[: end - max(map(len, whole))]
            break
    assert "".join(_until_stop(iter(pieces), tuple(stop))) == expected
