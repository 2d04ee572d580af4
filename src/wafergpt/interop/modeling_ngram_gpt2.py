"""GPT-2 with n-gram embeddings, or with a head on pooled states: exports contain this file.

It needs torch and transformers alone; only an export reads it here. Load an export with
``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``, or a classifier with
``AutoModelForSequenceClassification``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model

PRIME, FACTOR = 2**31 - 1, 1_103_515_245


class NgramGPT2Config(GPT2Config):
    """A GPT-2 whose token embeddings are joined by those of hashed n-grams.

    Attributes:
        ngrams: their orders; there may be none.
        ngram_rows: of each order's table.
        ngram_kept: rows that are left of each table, if others were taken out.
        ngram_ids: whether tokens are hashed by the ids that they had in a larger vocabulary.
        pooling: of a text's hidden states for a classifier's head: ``last``, ``mean``, ``max``, or
            ``mean_max_last``, all three beside each other.
    """

    model_type = "ngram_gpt2"
    ngrams: Any = (2,)
    ngram_rows: int = 1 << 16
    ngram_kept: Any = ()
    ngram_ids: bool = False
    pooling: str = "last"


class KeptRows(nn.Module):
    """The rows that are left of a table; all others are row 0, which is zero."""

    rows: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(count, dtype=torch.int32))

    def forward(self, numbers: Tensor) -> Tensor:
        """Map rows of the whole table to rows of what is left of it."""
        numbers = numbers.to(self.rows.dtype)
        places = torch.searchsorted(self.rows, numbers)
        found = self.rows[places.clamp(max=len(self.rows) - 1)] == numbers
        return torch.where(found, places + 1, 0)


class NgramGPT2Model(GPT2Model):
    """The network from tokens to hidden states; arguments but the first go by name."""

    config_class = NgramGPT2Config
    ids: Tensor | None

    def __init__(self, config: NgramGPT2Config) -> None:
        super().__init__(config)
        kept = tuple(config.ngram_kept)
        rows = [n + 1 for n in kept] or [config.ngram_rows] * len(config.ngrams)
        self.ngrams = nn.ModuleList(nn.Embedding(n, config.hidden_size) for n in rows)
        self.kept = nn.ModuleList(map(KeptRows, kept))
        ids = torch.zeros(config.vocab_size, dtype=torch.int32) if config.ngram_ids else None
        self.register_buffer("ids", ids)
        self.post_init()

    def embed(self, tokens: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Return the embeddings ``[batch, length, n_embd]`` of tokens.

        Args:
            tokens: ``[batch, length]``.
            text: ``[batch, n]``, all tokens read so far, these last.
            mask: ``[batch, n]``, 0 where the text is padding; None for a text without any.
        """
        orders, length = tuple(self.config.ngrams), tokens.shape[1]
        earlier = max(orders, default=1) - 1
        text = self.hashed_as(text) + 1
        if mask is not None:
            if mask.shape != text.shape:
                raise ValueError("n-grams need a mask of the whole text, [batch, n]")
            text = text.masked_fill(mask == 0, 0)
        text = nn.functional.pad(text, (earlier, 0))
        end = text.shape[1]
        total: Tensor = self.wte(tokens)
        hashes = self.hashed_as(tokens) + 1
        for back in range(1, earlier + 1):
            hashes = (hashes * FACTOR + text[:, end - length - back : end - back]) % PRIME
            if back + 1 in orders:
                place = orders.index(back + 1)
                rows = hashes % self.config.ngram_rows
                total = total + self.ngrams[place](self.kept[place](rows) if self.kept else rows)
        return total

    def hashed_as(self, tokens: Tensor) -> Tensor:
        """Return the ids that tokens are hashed by."""
        return (tokens if self.ids is None else self.ids[tokens]).long()

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Read whole texts; what continues a cache comes as ``inputs_embeds``."""
        if input_ids is None:
            return super().forward(None, *args, **kwargs)
        cache = args[0] if args else kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and cache.get_seq_length():
            raise ValueError("n-grams need the tokens before these, not their cache: use generate")
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("give either input_ids or inputs_embeds")
        embeddings = self.embed(input_ids, input_ids, kwargs.get("attention_mask"))
        return super().forward(None, *args, **{**kwargs, "inputs_embeds": embeddings})


class NgramGPT2LMHeadModel(GPT2LMHeadModel):
    """A language model."""

    config_class = NgramGPT2Config
    transformer: NgramGPT2Model

    def __init__(self, config: NgramGPT2Config) -> None:
        super().__init__(config)
        self.loss_type = "ForCausalLM"
        self.transformer = NgramGPT2Model(config)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Keep the whole text and its mask beside what the cache has not read."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        # A static cache makes a mask of another shape of it.
        return {**inputs, "text": input_ids, "text_mask": kwargs.get("attention_mask")}

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return what ``GPT2LMHeadModel`` does.

        Args:
            input_ids: ``[batch, length]``.
            attention_mask: as there.
            position_ids: as there.
            labels: as there.
            text: ``[batch, n]``, all tokens so far; needed where ``input_ids`` continue a cache.
            text_mask: ``[batch, n]``, 0 where the text is padding.
            kwargs: as there.
        """
        if input_ids is not None and text is not None:
            kwargs["inputs_embeds"] = self.transformer.embed(input_ids, text, text_mask)
            input_ids = None
        return super().forward(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **kwargs,
        )


class PooledNgramGPT2Model(NgramGPT2Model):
    """The network from tokens to pooled states, which are the same at every place of a text."""

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Pool over the places that the mask names, or up to the last token that is not padding."""
        outputs = super().forward(input_ids, *args, **kwargs)
        hidden = outputs[0]
        batch, length = hidden.shape[:2]
        places = torch.arange(length, device=hidden.device)
        text = kwargs.get("attention_mask")
        if text is not None:
            if text.shape != (batch, length):
                raise ValueError("pooling needs a mask of the whole text, [batch, length]")
            text = text.bool()
        elif input_ids is not None and self.config.pad_token_id is not None:
            end = (places * (input_ids != self.config.pad_token_id)).amax(1, keepdim=True)
            text = places <= end
        else:
            text = torch.ones(batch, length, dtype=torch.bool, device=hidden.device)
        pooling, parts = self.config.pooling, []
        if pooling in ("mean", "mean_max_last"):
            parts.append((hidden * text[..., None]).sum(1) / text.sum(1, keepdim=True))
        if pooling in ("max", "mean_max_last"):
            parts.append(hidden.masked_fill(~text[..., None], float("-inf")).amax(1))
        if pooling in ("last", "mean_max_last"):
            parts.append(hidden[torch.arange(batch), (places * text).argmax(1)])
        pooled = torch.cat(parts, 1)[:, None].expand(-1, length, -1)
        if isinstance(outputs, tuple):
            return pooled, *outputs[1:]
        outputs["last_hidden_state"] = pooled
        return outputs


class NgramGPT2ForSequenceClassification(GPT2ForSequenceClassification):
    """A classifier, whose head reads a text's pooled states."""

    config_class = NgramGPT2Config

    def __init__(self, config: NgramGPT2Config) -> None:
        super().__init__(config)
        self.transformer = PooledNgramGPT2Model(config)
        parts = 3 if config.pooling == "mean_max_last" else 1
        self.score = nn.Linear(parts * config.hidden_size, self.score.out_features, bias=False)
        self.post_init()


__all__ = [
    "NgramGPT2Config",
    "NgramGPT2ForSequenceClassification",
    "NgramGPT2LMHeadModel",
    "NgramGPT2Model",
    "PooledNgramGPT2Model",
]
