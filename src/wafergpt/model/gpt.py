"""A GPT-2 decoder: learned positions, pre-norm blocks, biases, a head that is tied by default.

One network is trained to predict the next token, and then reads the text for every task. It does
not know where it runs, nor whether it is compiled or sharded.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wafergpt import config
from wafergpt.model.cache import Cache, LayerCache
from wafergpt.model.cpu_attention import causal_attention
from wafergpt.model.dropout import Dropout
from wafergpt.model.ngrams import NgramEmbedding
from wafergpt.shapes.parametrization import parametrization
from wafergpt.shapes.roles import LORA, role_of


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        self.n_heads = model.n_heads
        self.scale = parametrization(model).attention_multiplier
        self.d_head = model.head_width
        self.qkv = nn.Linear(model.d_model, 3 * model.attention_width)
        self.out = nn.Linear(model.attention_width, model.d_model)

    def forward(self, x: Tensor, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """Map ``[batch, length, d_model]`` to the same shape.

        Args:
            x: the normed residual stream.
            mask: ``[batch, 1, length, keys]``, true where a query sees a key; None is causal.
            cache: keys and values of the tokens before these, extended in place.
        """
        batch, length, _ = x.shape
        packed = self.qkv(x).view(batch, length, 3, self.n_heads, self.d_head)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.extend(key, value)
        # A single query sees every key; only several need the causal mask. Without a cache the
        # length is not asked for: in an exported graph it is not known.
        causal = mask is None and (cache is None or length > 1)
        if causal and query.dtype == torch.bfloat16 and query.device.type == "cpu":
            mixed = causal_attention(query, key, value, self.scale)
        else:
            mixed = F.scaled_dot_product_attention(
                query, key, value, mask, is_causal=causal, scale=self.scale
            )
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        self.approximate = "tanh" if model.activation == "gelu_tanh" else "none"
        self.up = nn.Linear(model.d_model, model.d_ffn)
        self.out = nn.Linear(model.d_ffn, model.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[…, d_model]`` to the same shape."""
        result: Tensor = self.out(F.gelu(self.up(x), approximate=self.approximate))
        return result


class Block(nn.Module):
    """Attention and feed-forward, each on a normed copy and added back."""

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(model.d_model)
        self.attention = Attention(model)
        self.ffn_norm = nn.LayerNorm(model.d_model)
        self.ffn = FeedForward(model)
        self.dropout = Dropout(model.dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Map the residual stream ``[batch, length, d_model]`` to the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, cache))
        result: Tensor = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return result


class GPT(nn.Module):
    """The network from tokens to hidden states; ``logits`` maps these to the vocabulary.

    Dropout acts on the embedding and on each residual branch, not inside the attention, where it
    would rule out the fused kernels.
    """

    def __init__(self, model: config.Model) -> None:
        if model.vocab_size < 1:
            raise ValueError("model.vocab_size must be known before the network is built")
        super().__init__()
        self.config = model
        self.embedding = nn.Embedding(model.vocab_size, model.d_model)
        self.position = nn.Embedding(model.seq_len, model.d_model)
        self.ngrams = NgramEmbedding(model) if model.ngrams else None
        self.dropout = Dropout(model.dropout)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.n_layers))
        self.norm = nn.LayerNorm(model.d_model)
        self.lm_head: nn.Module | None = (
            None if model.tied else nn.Linear(model.d_model, model.vocab_size, bias=False)
        )
        table = parametrization(model)
        self._embedding_multiplier = table.embedding_multiplier
        self._logits_multiplier = table.logits_multiplier

    @property
    def head(self) -> Tensor:
        """The head's weight ``[vocab_size, d_model]``: the token embedding, unless untied."""
        weight = (self.embedding if self.lm_head is None else self.lm_head).weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        seen: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Map tokens ``[batch, length]`` to hidden states ``[batch, length, d_model]``.

        Args:
            tokens: token ids.
            documents: ``[batch, length]``, the number of each token's document, not decreasing;
                attention and positions then stay inside a document.
            cache: of the tokens that earlier calls have read, which these continue.
            seen: ``[batch, length]``, true for the tokens that all tokens of the row see: attention
                is then two-way, for tasks that read a whole text; without the other two.
            shift: ``[batch, length, d_model]``, added to the embedded tokens, in units of the root
                mean square of each.

        Raises:
            ValueError: if these tokens and those in the cache are more than ``seq_len``.
        """
        length = tokens.shape[1]
        start = 0 if cache is None else cache.length
        if start + length > self.config.seq_len:
            raise ValueError(
                f"{start + length} tokens do not fit the context of {self.config.seq_len}"
            )
        place = torch.arange(start, start + length, device=tokens.device)
        mask = None if seen is None else seen[:, None, None]
        if documents is not None:
            place, mask = _inside_documents(documents, place)
        elif cache is not None and cache.padding is not None:
            place, mask = _after_padding(cache.padding, place, start + length)
        elif start and length > 1:
            keys = torch.arange(start + length, device=tokens.device)
            mask = (keys <= place[:, None])[None, None]
        x = self.embedding(tokens) + self.position(place)
        if self.ngrams is not None:
            earlier = None if cache is None else cache.recall(tokens, self.ngrams.memory)
            x = x + self.ngrams(tokens, place, earlier)
        if self._embedding_multiplier != 1:
            x = x * self._embedding_multiplier
        if shift is not None:
            x = x + shift.to(x) * x.detach().square().mean(-1, keepdim=True).sqrt()
        x = self.dropout(x)
        for index, block in enumerate(self.blocks):
            x = block(x, mask, None if cache is None else cache.layers[index])
        result: Tensor = self.norm(x)
        return result

    def scaled(self, hidden: Tensor) -> Tensor:
        """Return the head's input: hidden states times the parametrization's multiplier."""
        return hidden if self._logits_multiplier == 1 else hidden * self._logits_multiplier

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states ``[…, d_model]`` to logits ``[…, vocab_size]``."""
        hidden = self.scaled(hidden)
        if self.lm_head is None:
            return F.linear(hidden, self.embedding.weight)
        result: Tensor = self.lm_head(hidden)
        return result

    @torch.no_grad()
    def initialize(self, seed: int) -> GPT:
        """Initialize the weights, and return self."""
        for (_, parameter), (_, values) in zip(
            self.named_parameters(), self.fresh_weights(seed), strict=True
        ):
            parameter.copy_(values)
        return self

    def fresh_weights(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Draw weights as Cerebras-GPT does (arXiv:2304.03208, Appendix A), one after the other.

        They are normals truncated at two standard deviations, which the parametrization sets, drawn
        on the CPU, so that every device starts from the same weights.
        """
        generator = torch.Generator().manual_seed(seed)
        rows = parametrization(self.config).rows
        for name, parameter in self.named_parameters():
            values = torch.empty(parameter.shape, device="cpu")
            std = rows[role_of(name)].init_std
            if std == 0:
                yield name, values.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                continue
            yield (
                name,
                nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator),
            )

    def added_to(self, weights: Container[str]) -> list[str]:
        """Return the names of adapters, and of n-gram tables, if ``weights`` have none of these."""
        roles = {name: role_of(name) for name, _ in self.named_parameters()}
        found: list[str] = []
        for kind in (("ngram",), LORA):
            names = [name for name, role in roles.items() if role in kind]
            found += [] if any(name in weights for name in names) else names
        return found

    def added(self, names: Iterable[str], seed: int) -> Iterator[tuple[str, Tensor]]:
        """Draw the weights of ``added_to``: zeros, so that at first nothing is added, but for A."""
        generator = torch.Generator().manual_seed(seed)
        rows = parametrization(self.config).rows
        for name in names:
            # That of a uniform distribution is its bound over √3.
            bound = 3**0.5 * rows[role_of(name)].init_std
            values = torch.zeros(self.get_parameter(name).shape, device="cpu")
            yield name, values.uniform_(-bound, bound, generator=generator) if bound else values


def _inside_documents(documents: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    new = torch.ones_like(documents, dtype=torch.bool)
    new[:, 1:] = documents[:, 1:] != documents[:, :-1]
    start = torch.cummax(torch.where(new, place, 0), dim=1).values
    same = documents[:, :, None] == documents[:, None, :]
    return place - start, (same & (place[:, None] >= place))[:, None]


def _after_padding(padding: Tensor, place: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
    keys = torch.arange(n_keys, device=place.device)
    own = keys == place[:, None]
    text = (keys <= place[:, None]) & (keys >= padding[:, None, None])
    # Padding sees itself: a softmax over nothing is no number, and spreads.
    return (place - padding[:, None]).clamp(min=0), (text | own)[:, None]
