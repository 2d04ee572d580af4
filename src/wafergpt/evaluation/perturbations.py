"""Changes of a text that should not change what a classifier says of it."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_letters
from typing import Literal, NamedTuple

from wafergpt.data.spelling import cased_as
from wafergpt.errors import InputError, nearest
from wafergpt.evaluation import perturbation_tables as tables

SEVERITIES = (1, 2, 3, 4, 5)
"""From barely visible to what is hard, but possible, to read."""

Scripts = Literal["any", "latin", "chinese"]

HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Chinese characters, inside of a class of a regular expression."""

# A mark belongs to the character before it, which is then left as it is.
_ALONE = r"(?![\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\u200d])"
_LATIN = r"(?:[A-Za-zÀ-ÖØ-öø-ɏ])"
_LETTER = re.compile(rf"[A-Za-z]{_ALONE}")
_INNER = re.compile(rf"(?<={_LATIN})[A-Za-z]{_ALONE}")
_PAIR = re.compile(rf"(?<=[A-Za-z])([A-Za-z])(?!(?i:\1))[A-Za-z]{_ALONE}")
_CASED = re.compile(rf"{_LATIN}+{_ALONE}")
_GAP = re.compile(rf"(?<=\S)[ \t]+(?=\S){_ALONE}|(?<=[{HAN}])(?=[{HAN}])")
_MARK = re.compile(
    rf"""(?<=\w)(?:[,.!?…](?!\d|\w)|[;:](?=\s|$)|['’](?=\w))|[，。！？；：、]{_ALONE}"""
)
_TOKEN = re.compile(rf"[{HAN}](?:(?!\w)\S)*|(?:(?![{HAN}])\S)+")
_FIRST_WORD = re.compile(rf"\s*(?:({_LATIN}+)|[{HAN}]){_ALONE}")
_HAN, _OF_LATIN = re.compile(rf"[{HAN}]"), re.compile(_LATIN)


class Site(NamedTuple):
    """A part of a text that can change.

    Attributes:
        start: its first character.
        end: the character after its last one.
        options: what can stand there instead.
    """

    start: int
    end: int
    options: Sequence[str]


@dataclass(frozen=True)
class Perturbation:
    """A kind of change.

    Attributes:
        name: of the kind.
        what: it does, for people.
        scripts: of the texts that it is meant for.
        unit: what the rates count.
        rates: the share of the units that change, by severity.
        sites: the places in a text that can change, in their order, none over another.
        from_end: change the last places rather than random ones.
    """

    name: str
    what: str
    scripts: Scripts
    unit: str
    rates: tuple[float, float, float, float, float]
    sites: Callable[[str], Iterable[Site]]
    from_end: bool = False


def perturbed(text: str, kind: str, severity: int, seed: int) -> str:
    """Change a text; the same arguments give the same text everywhere.

    What changes at a severity changes in the same way at all higher ones.

    Args:
        text: any string.
        kind: of change (see ``KINDS``).
        severity: from 1 to 5 (see the rates of ``KINDS``).
        seed: of the places that change.

    Returns:
        The text, which is blank only if it was, and unchanged if nothing in it can change.

    Raises:
        InputError: if there is no such kind or severity.
    """
    require_kinds([kind])
    if severity not in SEVERITIES:
        raise InputError(f"a severity of {severity} is not one of 1, 2, 3, 4 and 5")
    perturbation = KINDS[kind]
    sites = list(perturbation.sites(text))
    if not sites:
        return text
    # Without the severity, so that a higher one keeps the changes of the lower ones.
    key = f"{kind} {seed} ".encode() + text.encode("utf-8", "surrogatepass")
    # Of Python's generators only random() is the same in all versions.
    draw = random.Random(int.from_bytes(hashlib.sha256(key).digest()))
    count = int(len(sites) * perturbation.rates[severity - 1] + draw.random())
    if perturbation.from_end:
        order = list(range(len(sites)))[::-1]
    else:
        keys = [draw.random() for _ in sites]
        order = sorted(range(len(sites)), key=keys.__getitem__)
    new = {}
    for place in order[:count]:
        options = sites[place].options
        new[place] = options[int(draw.random() * len(options))]
    result = _with(text, sites, new)
    return result if result.strip() else text


def require_kinds(kinds: Iterable[str]) -> None:
    """Check the names of kinds.

    Args:
        kinds: to check.

    Raises:
        InputError: if one is unknown.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(
                f"no change of texts is named '{kind}'{nearest(kind, KINDS)} (there are "
                f"{', '.join(KINDS)})"
            )


def fitting(texts: Sequence[str]) -> list[str]:
    """Return the kinds that can change texts: those for the script of most, and for any script.

    Args:
        texts: of a data set.

    Returns:
        Names, in the order of ``KINDS``, each of which finds something to change in one text.
    """
    scripts = {"any", script_of(texts)}
    return [
        name
        for name, kind in KINDS.items()
        if kind.scripts in scripts and any(True for text in texts for _ in kind.sites(text))
    ]


def script_of(texts: Sequence[str]) -> Scripts:
    """Return the script of most texts: ``any`` if none has a letter of the two."""
    chinese = latin = 0
    for text in texts:
        # A Chinese character stands for about two letters.
        of_han, of_latin = 2 * len(_HAN.findall(text)), len(_OF_LATIN.findall(text))
        chinese += of_han > of_latin
        latin += of_latin > of_han
    if not (chinese or latin):
        return "any"
    return "chinese" if chinese > latin else "latin"


def _with(text: str, sites: Sequence[Site], new: Mapping[int, str]) -> str:
    parts, done = [], 0
    for place in sorted(new):
        parts += [text[done : sites[place].start], new[place]]
        done = sites[place].end
    return "".join([*parts, text[done:]])


def _replaced(
    pattern: re.Pattern[str], options: Callable[[str], Sequence[str]]
) -> Callable[[str], Iterator[Site]]:
    """Return the sites that a pattern finds and that have other options."""

    def sites(text: str) -> Iterator[Site]:
        for match in pattern.finditer(text):
            if found := options(match.group()):
                yield Site(match.start(), match.end(), found)

    return sites


def _looked_up(
    table: Mapping[str, Sequence[str]], words: bool = False
) -> Callable[[str], Iterator[Site]]:
    """Return the sites of what is in a table; of words, in any case."""
    keys = sorted(table, key=lambda key: (-len(key), key))
    inside = "|".join(map(re.escape, keys))
    if not words:
        return _replaced(re.compile(f"(?:{inside}){_ALONE}"), table.__getitem__)
    pattern = re.compile(rf"(?<![\w'’-])(?:{inside})(?![\w'’-]){_ALONE}", re.IGNORECASE)
    return _replaced(pattern, lambda word: [cased_as(word, o) for o in table.get(word.lower(), ())])


_NEAR = {
    letter: [cased_as(letter, key) for key in tables.NEIGHBOURS[letter.lower()]]
    for letter in ascii_letters
}
_INSERTED = {
    letter: [letter + other for other in (*near, letter)] for letter, near in _NEAR.items()
}
_MISSING = [""]


def _cases(word: str) -> list[str]:
    mixed = "".join(c.upper() if place % 2 else c.lower() for place, c in enumerate(word))
    forms = dict.fromkeys([word.upper(), word.lower(), word.swapcase(), mixed])
    return [form for form in forms if form != word]


def _gaps(gap: str) -> list[str]:
    return ["", gap + " ", gap + "  "] if gap else [" "]


def _marks(mark: str) -> list[str]:
    return [""] if mark in "'’" else ["", mark * 2]


_CONTRACTED = {**tables.NOT, **tables.CONTRACTIONS}
_EXPANDED = {short: full for full, short in tables.NOT.items()} | {
    short: full for full, short in tables.CONTRACTIONS.items() if not short.endswith(("'s", "'d"))
}
_TO_CONTRACT = re.compile(
    rf"\b(?:(?:{'|'.join(tables.NOT)})\b|(?:{'|'.join(tables.CONTRACTIONS)})(?=[ ]\w)"
    rf"(?![ ]not\b))(?!['’]){_ALONE}",
    re.IGNORECASE,
)
_TO_EXPAND = re.compile(
    rf"\b(?:(?:{'|'.join(_EXPANDED)})\b|(?:{'|'.join(tables.EXPANDED)})"
    rf"(?=[ ](?:{'|'.join(tables.AFTER_IS)})\b)){_ALONE}".replace("'", "['’]"),
    re.IGNORECASE,
)
_IS = {word: f"{word[:-2]} is" for word in tables.EXPANDED}


def _contractions(text: str) -> Iterator[Site]:
    found: list[Site] = []
    for pattern, table in ((_TO_CONTRACT, _CONTRACTED), (_TO_EXPAND, _EXPANDED | _IS)):
        for match in pattern.finditer(text):
            word = match.group().lower().replace("’", "'")
            if word not in table:
                # Case is ignored in Unicode's way, in which a dotless i is an i.
                continue
            new = cased_as(match.group(), table[word])
            # I is always written large.
            new = f"I{new[1:]}" if re.match(r"i\b", new) else new
            found.append(Site(match.start(), match.end(), [new]))
    done = 0
    for site in sorted(found):
        if site.start >= done:
            yield site
            done = site.end


def _ends(text: str) -> Iterator[Site]:
    tokens = [match.end() for match in _TOKEN.finditer(text)]
    ends = [*tokens[:-1], len(text)]
    yield from (Site(before, end, [""]) for before, end in pairwise(ends))


_ENGLISH_WORDS = _looked_up(tables.SYNONYMS, words=True)
_CHINESE_WORDS = _looked_up(tables.SYNONYMS_CHINESE)


def _phrases(text: str) -> Iterator[Site]:
    first, done = _FIRST_WORD.match(text), 0
    if first is not None:
        word = first[1] or ""
        place = first.start(1) if word else first.end() - 1
        small = word.lower() if word in tables.LOWERED else word
        prefixes = tables.PREFIXES if word else tables.PREFIXES_CHINESE
        done = place + len(word)
        yield Site(place, done, [prefix + small for prefix in prefixes])
    for site in sorted([*_ENGLISH_WORDS(text), *_CHINESE_WORDS(text)]):
        if site.start >= done:
            yield site


_ALL = (
    Perturbation("typos", "neighbouring keys of a keyboard", "latin", "letters",
                 (0.01, 0.025, 0.05, 0.08, 0.12), _replaced(_LETTER, _NEAR.__getitem__)),
    Perturbation("swap", "neighbouring letters change places", "latin", "pairs of letters",
                 (0.02, 0.05, 0.1, 0.16, 0.25), _replaced(_PAIR, lambda pair: [pair[::-1]])),
    Perturbation("drop", "letters are missing", "latin", "letters that are not first of a word",
                 (0.01, 0.025, 0.05, 0.08, 0.12), _replaced(_INNER, lambda letter: _MISSING)),
    Perturbation("insert", "letters too many", "latin", "letters",
                 (0.01, 0.025, 0.05, 0.08, 0.12), _replaced(_LETTER, _INSERTED.__getitem__)),
    Perturbation("case", "words in capitals, small or mixed letters", "latin", "words",
                 (0.05, 0.15, 0.35, 0.65, 1.0), _replaced(_CASED, _cases)),
    Perturbation("ocr", "mistakes of reading scanned pages", "latin", "characters that look alike",
                 (0.01, 0.03, 0.06, 0.1, 0.18), _looked_up(tables.OCR)),
    Perturbation("homoglyphs", "Cyrillic and Greek letters that look the same", "latin",
                 "letters that have one", (0.01, 0.05, 0.15, 0.3, 0.6),
                 _looked_up(tables.HOMOGLYPHS)),
    Perturbation("whitespace", "spaces missing or too many", "any", "gaps",
                 (0.03, 0.08, 0.15, 0.25, 0.4), _replaced(_GAP, _gaps)),
    Perturbation("punctuation", "marks missing or doubled", "any", "marks",
                 (0.1, 0.25, 0.5, 0.75, 1.0), _replaced(_MARK, _marks)),
    Perturbation("contractions", "do not for don't, and don't for do not", "latin",
                 "words that have both forms", (0.2, 0.4, 0.6, 0.8, 1.0), _contractions),
    Perturbation("truncation", "the end is missing", "any", "words, or Chinese characters",
                 (0.05, 0.1, 0.2, 0.3, 0.5), _ends, from_end=True),
    Perturbation("paraphrase", "other words of the same meaning, and words before all", "any",
                 "words that have another, and the beginning", (0.2, 0.4, 0.6, 0.8, 1.0), _phrases),
    Perturbation("traditional", "traditional characters", "chinese", "simplified characters",
                 (0.1, 0.25, 0.5, 0.75, 1.0), _looked_up(tables.TRADITIONAL)),
    Perturbation("fullwidth", "full-width for half-width characters, and the reverse", "chinese",
                 "characters that have both forms", (0.1, 0.25, 0.5, 0.75, 1.0),
                 _looked_up(tables.FULL_WIDTH)),
    Perturbation("homophones", "other characters of the same sound", "chinese",
                 "words that have one", (0.05, 0.15, 0.3, 0.5, 0.8),
                 _looked_up(tables.HOMOPHONES)),
)  # fmt: skip

KINDS: Mapping[str, Perturbation] = {one.name: one for one in _ALL}
"""Kinds of changes by name, with the share that changes at each severity."""
