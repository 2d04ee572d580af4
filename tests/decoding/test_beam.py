"""Beam search beside transformers' own, and beside every continuation there is."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.test_gpt import hugging_face, noisy_gpt
from wafergpt.config import Model
from wafergpt.decoding import beam
from wafergpt.decoding.beam import Beam, beam_search, searched_together
from wafergpt.model.gpt import GPT

SHAPE = Model.model_validate(
    {"n_layers": 2, "d_model": 32, "n_heads": 2, "seq_len": 24, "vocab_size": 13}
)
END = 0


def sharp_gpt(shape: Model = SHAPE) -> GPT:
    """Return a network whose continuations end, and differ."""
    gpt = noisy_gpt(shape)
    with torch.no_grad():
        gpt.norm.weight.mul_(2.0)
        gpt.embedding.weight[END].mul_(1.5)
    return gpt


@pytest.mark.parametrize(("width", "penalty"), [(1, 1.0), (3, 0.0), (4, 1.0), (4, 2.0)])
def test_it_is_what_transformers_finds(width: int, penalty: float) -> None:
    gpt = sharp_gpt()
    theirs = hugging_face(gpt, "GPT2LMHeadModel")
    prompts = torch.randint(1, 13, (20, 5), generator=torch.Generator().manual_seed(3))
    found = beam_search(gpt, [*prompts], Beam(width, 12, penalty, END, 13))
    expected = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), num_beams=width, do_sample=False,
        max_new_tokens=12, eos_token_id=END, pad_token_id=END, early_stopping=width > 1,
        **({"length_penalty": penalty} if width > 1 else {}),
    )[:, 5:].tolist()  # fmt: skip
    ends = [row.index(END) if END in row else len(row) for row in expected]
    assert found == [row[:end] for row, end in zip(expected, ends, strict=True)]
    assert len(set(ends)) > 2, "the continuations are of different lengths"


@pytest.mark.parametrize("ngrams", [(), (2, 3)])
def test_prompts_of_other_lengths_change_nothing(ngrams: tuple[int, ...]) -> None:
    gpt, how = sharp_gpt(SHAPE.model_copy(update={"ngrams": ngrams})), Beam(3, 8, 1.0, END, 13)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(1, 13, (n,), generator=generator) for n in (9, 1, 4, 16, 4, 2)]
    alone = [beam_search(gpt, [prompt], how)[0] for prompt in prompts]
    assert beam_search(gpt, prompts, how) == alone
    assert len(set(map(tuple, alone))) > 3, "the continuations differ"


@given(lengths=st.lists(st.integers(0, 24), max_size=40), memory=st.integers(1, 1 << 20))
def test_prompts_are_searched_once_with_those_that_are_alike(
    lengths: list[int], memory: int
) -> None:
    def beam_of(length: int) -> Beam:
        return Beam(2, min(8, 25 - length), 1.0, END, 13)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam, "SEARCH_BYTES", memory)
        found = [*searched_together(lengths, SHAPE, beam_of)]
    places = [place for group, _ in found for place in group]
    assert sorted(places) == [place for place, length in enumerate(lengths) if length]
    for group, how in found:
        some = [lengths[place] for place in group]
        assert max(some) <= 2 * min(some)
        assert {how} == {beam_of(length) for length in some}
        numbers = 2 * 2 * 32 * (max(some) + how.max_tokens) + 2 * 13
        assert len(group) == 1 or len(group) * 2 * 4 * numbers <= memory


def test_a_beam_that_holds_everything_finds_the_likeliest() -> None:
    shape = SHAPE.model_copy(update={"vocab_size": 4})
    gpt, prompt = sharp_gpt(shape), [1, 2]
    scores = {}
    for tokens in itertools.product(range(4), repeat=3):
        end = tokens.index(END) + 1 if END in tokens else 3
        text = torch.tensor([[*prompt, *tokens]])
        with torch.no_grad():
            log_probs = gpt.logits(gpt(text)).log_softmax(2)[0]
        scores[tokens[:end]] = sum(
            float(log_probs[1 + place, token]) for place, token in enumerate(tokens[:end])
        )
    best = max(scores, key=lambda tokens: scores[tokens])
    (found,) = beam_search(gpt, [torch.tensor(prompt)], Beam(64, 3, 0.0, END, 4))
    assert found == [token for token in best if token != END]


def test_no_token_beyond_the_vocabulary_is_drawn() -> None:
    gpt = sharp_gpt()
    prompts = torch.full((4, 3), 2)
    found = beam_search(gpt, [*prompts], Beam(2, 10, 1.0, END, 6))
    assert all(token < 6 for row in found for token in row)
