"""Encoders of the tokenizers library that never read a special token from a text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wafergpt.data.tokenizer_files import build
from wafergpt.errors import InputError
from wafergpt.files import short

if TYPE_CHECKING:
    import tokenizers

STRANGE = "\u0378\U0010fffd\ufffd\x00"
"""A text that a vocabulary without bytes cannot represent."""


def require_one_reading(whole: tokenizers.Tokenizer, where: str) -> None:
    """Refuse added tokens that are normalized to the same text: either may be found.

    Raises:
        InputError: naming them.
    """
    seen: dict[str, str] = {}
    for token in whole.get_added_tokens_decoder().values():
        if token.normalized and whole.normalizer is not None:
            with reading():
                text = whole.normalizer.normalize_str(token.content)
            other = seen.setdefault(text, token.content)
            if other != token.content:
                raise InputError(
                    f"{where}: its normalizer makes the added tokens {short(other)} and "
                    f"{short(token.content)} the same text, so it is unclear which one is found"
                )


def encoder_of(content: dict[str, Any], end: str, where: str) -> tokenizers.Tokenizer:
    """Build an encoder that never returns a special token.

    Raises:
        InputError: if it would return one.
    """
    # Neither truncate nor pad a text.
    content = {**content, "truncation": None, "padding": None}
    added = content.get("added_tokens") or []
    special = {token["content"] for token in added if token.get("special")}
    special = special - {_unknown(content["model"])} | {end}
    encoder = _without_special(content, end, where)
    read = _read_out(encoder, special)
    vocab = content["model"]["vocab"]
    if read and isinstance(vocab, list):
        # A Unigram finds its pieces by their letters; an empty one is never found.
        pieces = [["", piece[1]] if piece[0] in read else piece for piece in vocab]
        content["added_tokens"] = [token for token in added if token["content"] not in read]
        content["model"] = {**content["model"], "vocab": pieces}
        encoder = _without_special(content, end, where)
        read = _read_out(encoder, special)
    if read:
        raise InputError(
            f"{where} reads {short(min(read))} written in a text as the special token itself, so a "
            "text could contain its own end"
        )
    return encoder


def _without_special(content: dict[str, Any], end: str, where: str) -> tokenizers.Tokenizer:
    encoder = build(json.dumps(content), where)
    if encoder.token_to_id(end) is not None:
        encoder.add_special_tokens([end])
    encoder.encode_special_tokens = True
    return encoder


def _unknown(model: dict[str, Any]) -> str | None:
    """Return the token for unknown text, which a text may give legitimately."""
    index, vocab = model.get("unk_id"), model["vocab"]
    if isinstance(index, int) and isinstance(vocab, list):
        name: str = vocab[index][0]
        return name
    return model.get("unk_token")


def _read_out(encoder: tokenizers.Tokenizer, special: set[str]) -> set[str]:
    """Return the special tokens that are read from a text."""
    probes = [STRANGE, *special, *(f"a {name} a" for name in special)]
    with reading():
        found = encoder.encode_batch_fast(probes, add_special_tokens=False)
    return special & {encoder.id_to_token(index) for encoding in found for index in encoding.ids}


@contextmanager
def reading() -> Iterator[None]:
    """Say in one line what the library cannot read.

    Raises:
        InputError: of what the library raises.
    """
    try:
        yield
    except TypeError:
        raise InputError("a text contains a lone surrogate, which is not a character") from None
    except BaseException as error:
        # A Rust panic, such as of a pattern that takes too many steps, is not an Exception. What a
        # signal raises in between passes through.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the tokenizer cannot read a text: {reason}") from None
