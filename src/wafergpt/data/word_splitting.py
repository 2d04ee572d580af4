"""The words of a raw text, as files of tagged words have them, with their places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

Units = Literal["words", "parts", "characters"]
"""What stands on a line of a file: words, the parts of words between hyphens, or characters."""

# Chinese and Japanese are written without spaces, so each character is a word.
_CJK = "\u2e80-\u2fff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ENDINGS = r"['’](?:s|S|re|ve|ll|d|m|t)\b"
_PICTURE = r"[\u2190-\u2bff\U0001f000-\U0001faff][\ufe0f\U0001f3fb-\U0001f3ff]*"
_TITLES = "(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Gen|Sen|Rep|Gov|Lt|Col|Sgt|Co|Corp|Inc|Ltd|No|vs)"
_LETTER = rf"(?:(?![{_CJK}_])\w)"
_RUN = rf"{_LETTER}(?:{_LETTER}|[\u0300-\u036f])*"
_PARTS = rf"""
    {_ENDINGS} | n['’]t\b
    | (?:[A-Za-z]\.){{2,}}
    | {_TITLES}\.
    | \d+(?:[.,:]\d+)+
    | (?:{_PICTURE})(?:\u200d(?:{_PICTURE}))*
    | [\U0001f1e6-\U0001f1ff]{{2}}
    | \.{{3}}
    | {_LETTER}+?(?=n['’]t\b)
    | {_RUN}(?:['’](?!(?:s|S|re|ve|ll|d|m|t)\b){_RUN})*
    | [{_CJK}]
    | \S[\ufe0f\u0300-\u036f]*
"""
_SPLIT: dict[Units, re.Pattern[str]] = {
    "words": re.compile(_PARTS, re.VERBOSE),
    "parts": re.compile(_PARTS, re.VERBOSE),
    "characters": re.compile(r"\S[\ufe0f\u0300-\u036f]*"),
}
_FIRST, _LAST = re.compile(rf"{_LETTER}"), re.compile(rf"{_LETTER}[.\u0300-\u036f]*$")
_GLUED = re.compile(rf"[{_CJK}\u3000-\u303f\uff00-\uffef]")
_CLOSING = re.compile(r"[.,;:!?%)\]}»”’…]+|['’]\w{1,2}|n['’]t")
_OPENING = re.compile(r"[(\[{«“‘$£€¥#]")
_END = re.compile(r"[.!?。！？…]+")
_QUOTE = re.compile(r"[\"'”’)\]」』]")
_BREAK = re.compile(
    rf"\n\s* | [。！？]+{_QUOTE.pattern}*\s* | (?<![.!?…])[.!?…]++{_QUOTE.pattern}*+(?:\s+|$)",
    re.VERBOSE,
)
_ABBREVIATED = re.compile(rf"(?<![\w'’])(?:{_TITLES}|(?:[A-Za-z]\.)+[A-Za-z]|[A-HJ-Z])$")


class Word(NamedTuple):
    """A word of a text, and the places of its first character and of the one after its last."""

    text: str
    start: int
    end: int


def words_of(text: str, units: Units) -> list[Word]:
    """Return the words of a text: whatever is no white space is in one of them."""
    found = [Word(m.group(), m.start(), m.end()) for m in _SPLIT[units].finditer(text)]
    return _hyphenated(text, found) if units == "words" else found


def _hyphenated(text: str, parts: Sequence[Word]) -> list[Word]:
    """Put parts together that hyphens join without a space, as in well-known."""
    found: list[Word] = []
    first = 0
    for place, word in enumerate(parts):
        if place < len(parts) - 1 and (
            _joins(parts, place) if word.text == "-" else _joins(parts, place + 1)
        ):
            continue
        start = parts[first].start
        found.append(Word(text[start : word.end], start, word.end))
        first = place + 1
    return found


def _joins(parts: Sequence[Word], place: int) -> bool:
    """Return whether the part at a place is a hyphen between two words without spaces."""
    if not 0 < place < len(parts) - 1 or parts[place].text != "-":
        return False
    before, hyphen, after = parts[place - 1 : place + 2]
    return (
        before.end == hyphen.start
        and hyphen.end == after.start
        and _LAST.search(before.text) is not None
        and _FIRST.match(after.text) is not None
    )


def joined(words: Sequence[str]) -> tuple[str, list[Word]]:
    """Write words as a text: with single spaces, but none beside Chinese and Japanese ones.

    Returns:
        The text, and the words at their places in it.
    """
    parts: list[str] = []
    found: list[Word] = []
    place = 0
    for word in words:
        if parts and not (_GLUED.match(word) or _GLUED.match(parts[-1][-1:])):
            parts.append(" ")
            place += 1
        parts.append(word)
        found.append(Word(word, place, place + len(word)))
        place += len(word)
    return "".join(parts), found


def pieces(words: Sequence[str]) -> Iterator[str]:
    """Yield each word as it stands in running text: most have a space before them.

    Marks that end something have none, nor have words after marks that begin something, nor Chinese
    and Japanese ones. It is a guess where the words come from a file of words; raw texts are read
    in the same way, so that both look alike.
    """
    before = ""
    for word in words:
        glued = _GLUED.match(word) or _CLOSING.fullmatch(word) or _OPENING.fullmatch(before)
        yield word if glued else f" {word}"
        before = word


def sentences(text: str, words: Sequence[Word]) -> Iterator[int]:
    """Yield the lengths, in words, of the sentences of a text.

    A line ends one, and so does a mark such as a full stop if a capital, a digit or a Chinese or
    Japanese character follows.
    """
    start, ended = 0, False
    for place, word in enumerate(words):
        if place > start:
            between = text[words[place - 1].end : word.start]
            closes = ended and _QUOTE.fullmatch(word.text) is not None and not between
            new = ended and not closes and (not word.text[0].islower() or not word.text.isalpha())
            if new or "\n" in between:
                yield place - start
                start = place
            ended = ended and closes
        ended = ended or _END.fullmatch(word.text) is not None
    if len(words) > start:
        yield len(words) - start


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, much as ``sentences`` does, but without its words.

    That is several times as fast.
    """
    parts, start = [], 0
    for found in _BREAK.finditer(text):
        if "\n" not in found.group():
            before = text[max(start, found.start() - 8) : found.start()]
            abbreviated = found.group().rstrip() == "." and _ABBREVIATED.search(before)
            if abbreviated or text[found.end() : found.end() + 1].islower():
                continue
        parts.append(text[start : found.end()])
        start = found.end()
    return [part.strip() for part in (*parts, text[start:]) if not part.isspace() and part]


def units_of(words: Iterable[str]) -> Units:
    """Return what the words of a file are, so that raw texts are split in the same way."""
    hyphens, single = False, True
    for word in words:
        single = single and len(word) == 1
        hyphens = hyphens or re.search(r"\w-\w", word) is not None
    if single:
        return "characters"
    return "words" if hyphens else "parts"
