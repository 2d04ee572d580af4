"""Changed texts, against the properties that they are promised to have and Unicode's own tables."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wafergpt.errors import InputError
from wafergpt.evaluation import perturbation_tables as tables
from wafergpt.evaluation.perturbations import (
    KINDS,
    SEVERITIES,
    fitting,
    perturbed,
    require_kinds,
)

ENGLISH = [
    "I don't think this movie is very good, because it's not what I want to see.",
    "It is the worst film of the year! Maybe they will make another one.",
    "Could you tell me how do I open an account right now, please?",
    "The children bought a lot of books; everyone was quiet until the end.",
]
CHINESE = [
    "这个酒店的服务非常好，房间很干净，但是价格有点贵，WiFi 100兆。",
    "我觉得下次还会来，因为离地铁站很近。",
    "虽然现在没有优惠，大家还是应该去看看！",
]
PIECES = [
    "don't",
    "it is",
    "rn",
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "1️⃣",
    "。",
    "的",
    "时候",
    " ",
    "\n",
    "…",
    "\ud800",
    "ß",
    "ŉ",
]
ANY = st.one_of(
    st.text(), st.lists(st.sampled_from([*PIECES, *ENGLISH, *CHINESE]), max_size=8).map("".join)
)


def distance(one: str, two: str) -> int:
    """Count the letters to insert, delete or replace."""
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(two, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@settings(max_examples=60)
@given(ANY, st.sampled_from(list(KINDS)), st.sampled_from(SEVERITIES), st.integers(0, 9))
@example("...", "punctuation", 5, 0)
@example("a.", "punctuation", 5, 0)
@example("", "paraphrase", 5, 0)
@example("ı am here, it iſ not, ıt's a", "contractions", 5, 0)
@example("ın order to", "paraphrase", 5, 0)
def test_any_text_can_be_changed(text: str, kind: str, severity: int, seed: int) -> None:
    found = perturbed(text, kind, severity, seed)
    assert found == perturbed(text, kind, severity, seed)
    assert bool(found.strip()) == bool(text.strip())
    if not list(KINDS[kind].sites(text)):
        assert found == text


@settings(max_examples=60)
@given(ANY, st.sampled_from(list(KINDS)))
def test_sites_are_in_order_and_offer_something_else(text: str, kind: str) -> None:
    done = 0
    for site in KINDS[kind].sites(text):
        assert done <= site.start <= site.end <= len(text)
        assert site.options
        assert text[site.start : site.end] not in site.options
        done = site.end


@settings(max_examples=60)
@given(ANY, st.sampled_from([kind for kind in KINDS if kind != "truncation"]), st.integers(0, 9))
def test_no_mark_or_picture_loses_its_character(text: str, kind: str, seed: int) -> None:
    # An unchanged cluster: a character of two or more code points that belong together.
    found = perturbed(text, kind, 5, seed)
    for cluster in ("e\u0301", "👩‍👩‍👧", "1️⃣"):
        assert found.count(cluster) == text.count(cluster)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_more(kind: str) -> None:
    texts = CHINESE if KINDS[kind].scripts == "chinese" else ENGLISH
    found = [
        mean(distance(text, perturbed(text, kind, severity, seed)) for text in texts[:3]
             for seed in range(6))
        for severity in SEVERITIES
    ]  # fmt: skip
    assert found[0] > 0
    assert all(one < two for one, two in pairwise(found))


@pytest.mark.parametrize("kind", ["typos", "traditional"])
def test_the_rate_is_the_share_that_changes(kind: str) -> None:
    text = "\n".join(10 * (CHINESE if kind == "traditional" else ENGLISH))
    n = sum(c in tables.TRADITIONAL if kind == "traditional" else c.isalpha() for c in text)
    for severity, rate in zip(SEVERITIES, KINDS[kind].rates, strict=True):
        found = perturbed(text, kind, severity, 0)
        assert abs(sum(a != b for a, b in zip(text, found, strict=True)) - rate * n) <= 1


def test_a_higher_severity_keeps_the_changes_of_a_lower_one() -> None:
    text = " ".join(ENGLISH)
    before: set[int] = set()
    for severity in SEVERITIES:
        found = perturbed(text, "typos", severity, 3)
        places = {place for place, letter in enumerate(found) if letter != text[place]}
        assert before < places
        before = places


@pytest.mark.parametrize(
    ("kind", "severity", "text", "expected"),
    [
        ("typos", 5, "a plain and simple sentence", "a llain ane simple senrence"),
        ("contractions", 5, "I do not know, it is late. It's been long.",
         "I don't know, it's late. It's been long."),
        ("contractions", 5, "DON'T ask. Yes, it is. I can’t.", "DO NOT ask. Yes, it is. I cannot."),
        ("contractions", 5, "They are not here; we're late, i'm sure.",
         "They aren't here; we are late, I am sure."),
        ("traditional", 5, "我们说汉语，皇后说话。", "我們說漢語，皇后說話。"),
        ("fullwidth", 5, "Wi-Fi（１００）。", "Ｗｉ－Ｆｉ(100)."),
        ("truncation", 5, "one two three ", "one two"),
        ("truncation", 5, "word", "word"),
        ("truncation", 5, "房间很好。", "房间很"),
        ("swap", 5, "aaaa I oo", "aaaa I oo"),
        ("punctuation", 5, "3.5 at 10:30, U.S.A :)", "3.5 at 10:30,, U.S.A :)"),
        ("drop", 5, "I a 1 é", "I a 1 é"),
    ],
)  # fmt: skip
def test_examples(kind: str, severity: int, text: str, expected: str) -> None:
    assert perturbed(text, kind, severity, 0) == expected


@given(st.text(st.characters(codec="ascii")), st.integers(0, 9))
def test_full_width_forms_are_unicodes(text: str, seed: int) -> None:
    found = perturbed(text, "fullwidth", 5, seed)
    assert unicodedata.normalize("NFKC", found) == text


def test_traditional_characters_are_of_big5_and_simplified_ones_of_gb2312() -> None:
    assert len(tables.TRADITIONAL) >= 500
    for simple, (form,) in tables.TRADITIONAL.items():
        assert len(simple.encode("gb2312")) == len(form.encode("big5")) == 2
        with pytest.raises(UnicodeEncodeError):
            form.encode("gb2312")


def test_homoglyphs_are_of_another_alphabet() -> None:
    for letter, others in tables.HOMOGLYPHS.items():
        assert unicodedata.name(letter).startswith("LATIN")
        for other in others:
            assert unicodedata.name(other).startswith(("CYRILLIC", "GREEK"))
            assert unicodedata.category(other) == unicodedata.category(letter)


def test_neighbours_touch_each_other() -> None:
    assert set(tables.NEIGHBOURS["g"]) == set("ftyhbv")
    assert set(tables.NEIGHBOURS["p"]) == set("ol")
    for key, others in tables.NEIGHBOURS.items():
        assert all(key in tables.NEIGHBOURS[other] for other in others)


def test_letters_that_change_places_stay() -> None:
    for text in ENGLISH:
        for seed in range(5):
            found = perturbed(text, "swap", 5, seed)
            assert found != text
            assert Counter(found) == Counter(text)


def test_another_seed_changes_other_places() -> None:
    assert len({perturbed(ENGLISH[0], "typos", 3, seed) for seed in range(10)}) > 5


def test_kinds_fit_the_script_of_most_texts_and_what_is_in_them() -> None:
    english, chinese = fitting([*ENGLISH, CHINESE[0]]), fitting([*CHINESE, ENGLISH[0]])
    assert "typos" in english
    assert "traditional" not in english
    assert "homophones" in chinese
    assert "typos" not in chinese
    assert {"whitespace", "punctuation", "truncation", "paraphrase"} <= {*english} & {*chinese}
    assert "contractions" not in fitting(["A plain text."])
    assert fitting([]) == fitting(["", "😀"]) == []
    assert fitting(ENGLISH) == [kind for kind in KINDS if kind in fitting(ENGLISH)]


def test_unknown_kinds_and_severities_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'typos'"):
        perturbed("a", "typo", 1, 0)
    with pytest.raises(InputError, match="no change of texts is named 'x'"):
        require_kinds(["case", "x"])
    for severity in (0, 6):
        with pytest.raises(InputError, match=f"severity of {severity}"):
            perturbed("a", "typos", severity, 0)
