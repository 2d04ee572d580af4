"""A tokenizer without the tokens that texts never need."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError


def without_unused(tokenizer: Tokenizer, used: Collection[int]) -> tuple[Tokenizer, list[int]]:
    """Take out tokens of a byte-pair encoding that are not used.

    A token goes if it is the result of a merge, is not used, and is part of no token that stays. So
    texts whose tokens are all used are encoded to the same tokens as before: none of the merges
    that are taken out happened in them. Any other text still has tokens, since all bytes stay.

    Args:
        tokenizer: a BPE.
        used: ids of tokens that texts were encoded to.

    Returns:
        The smaller tokenizer, and for each of its tokens the id that it had.

    Raises:
        InputError: if the tokenizer is of another kind.
    """
    content = tokenizer.definition
    model = content["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise InputError(
            f"tokens are taken out of a BPE vocabulary alone, and this one is {model.get('type')}"
        )
    vocab: dict[str, int] = model["vocab"]
    added = content.get("added_tokens") or []
    stay = {token["content"] for token in added} | {model.get("unk_token")}
    stay |= {token for token, index in vocab.items() if index in used}
    merges = [(*_pair(merge), merge) for merge in model["merges"]]
    gone = _removable(merges, stay, model.get("continuing_subword_prefix") or "")
    everything = {**vocab, **{token["content"]: token["id"] for token in added}}
    left = sorted(index for token, index in everything.items() if token not in gone)
    numbers = {index: number for number, index in enumerate(left)}
    prefix = model.get("continuing_subword_prefix") or ""
    content["model"] = {
        **model,
        "vocab": {t: numbers[i] for t, i in sorted(vocab.items(), key=_id) if t not in gone},
        "merges": [merge for a, b, merge in merges if _merged(a, b, prefix) not in gone],
    }
    content["added_tokens"] = [{**token, "id": numbers[token["id"]]} for token in added]
    # These hold ids, and are not used here: nothing is added around a text, nor is it padded.
    content["padding"] = None
    if (content.get("post_processor") or {}).get("type") != "ByteLevel":
        content["post_processor"] = None
    end = tokenizer.token(tokenizer.end_of_text)
    smaller = Tokenizer(json.dumps(content, ensure_ascii=False), "the smaller tokenizer", end)
    return smaller.with_spelling(tokenizer.spelling), left


def _id(item: tuple[str, int]) -> int:
    return item[1]


def _pair(merge: Any) -> tuple[str, str]:
    # Older files have both parts in one string.
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _merged(first: str, second: str, prefix: str) -> str:
    return first + second.removeprefix(prefix)


def _removable(
    merges: Iterable[tuple[str, str, Any]], stay: Collection[str | None], prefix: str
) -> set[str]:
    """Return the results of merges that do not stay, nor are needed to make one that does."""
    made: dict[str, list[tuple[str, str]]] = {}
    for first, second, _ in merges:
        made.setdefault(_merged(first, second, prefix), []).append((first, second))
    needed = Counter(part for pairs in made.values() for pair in pairs for part in pair)
    open_ = [token for token in made if not needed[token] and token not in stay]
    gone: set[str] = set()
    while open_:
        token = open_.pop()
        gone.add(token)
        for pair in made[token]:
            for part in pair:
                needed[part] -= 1
                if not needed[part] and part in made and part not in stay:
                    open_.append(part)
    return gone
