"""Unknown words are read as near ones that the training texts have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.spelling import KNOWN, MANY, SURE, Spelling, cased_as

nltk = pytest.importorskip("nltk", reason="the distances are NLTK's")

TEXTS = [
    "A wonderful film, don’t miss it. I can't, I want it; windows10, GPT4o",
    "The naïve and Wonderful hero of the café; он хороший",
    "The movie's and the café's couldn't",
] * SURE
MANY_MORE = [f"zzzzzz{n}" for n in range(MANY)]


def learned(texts: list[str], also: list[str] | None = None) -> Spelling:
    """Return a spelling that knows so many words that short ones are corrected too."""
    return Spelling.of(texts, also or []).merged(Spelling(dict.fromkeys(MANY_MORE, 0)))


@pytest.mark.parametrize(
    ("text", "read"),
    [("A wondrful fi1m!", "A wonderful film!"), ("WNODERFUL", "WONDERFUL"), ("Filn", "Film"),
     ("The naive heroo", "The naïve hero"), ("хороший хорощий", "хороший хороший"),
     ("do'nt", "don't"), ("dont", "don't"), ("wonderfulness", "wonderfulness"),
     # Too short, no letters, two changes, known.
     ("a fil th 2047 wodnreful", "a fil th 2047 wodnreful"), ("fil_m x2x2", "fil_m x2x2"),
     ("电影很好看", "电影很好看"), ("", ""),
     # An apostrophe comes first; what is before one is changed if it is long.
     ("cant dont can’t wan't", "can't don't can’t want"), ("won't", "won't"),
     ("caf\u00ea's movje's cuoldn't", "caf\u00ea's movie's couldn't"),
     # Other digits are other things; addresses, and names with capitals inside.
     ("windows11 windoes10 GPT5o", "windows11 windows10 GPT5o"), ("wondErfull", "wondErfull"),
     ("wonderful7 7wonderful wonder7ful", "wonderful7 7wonderful wonderful"),
     ("www.wonderfull.com http://wonderfull.org/film wonderfull.com", None),
     ("@wonderfull #wonderfull wonderfull@film.org", None),
     # Marks apart from their letters are the same letters.
     ("cafe\u0301 cafee\u0301 cafe\u0301e", "cafe\u0301 café café"),
     ("\r\n wonderfu1\t", "\r\n wonderful\t")],
)  # fmt: skip
def test_what_words_are_read_as(text: str, read: str | None) -> None:
    read = text if read is None else read
    assert learned(TEXTS)(text) == read


def test_the_most_frequent_near_word_is_taken_and_rare_ones_are_left() -> None:
    spelling = learned(["cast"] * SURE + ["last"] * (SURE + 1) + ["fast mast"] * (SURE - 1))
    assert spelling("aast") == "last"
    assert spelling("fast mast") == "fast mast"
    assert Spelling.of(["seldom"] * (KNOWN - 1) + ["seldon"] * SURE)("seldom") == "seldon"
    # Known from elsewhere, but not from these texts.
    spelling = Spelling.of(["seldonly"] * SURE, ["Seldomly", "seldonly"])
    assert spelling("seldomly sldomly seldnly") == "seldomly sldomly seldonly"
    assert not Spelling.of(["一二三四"] * SURE, ["word"]).can_correct


@pytest.mark.parametrize(
    ("text", "read"),
    [("fi\u0456m wond\u0435rfu1 unkn\u043ewn", "film wonderful unknown"), ("d\u03bfn't", "don't"),
     ("www.fi\u0456m.org @fi\u0456m", "www.fi\u0456m.org @fi\u0456m"),
     ("na\u00efv\u0435", "na\u00efve"), ("\u0444ilm \u0441\u043e\u0440", "film \u0441\u043e\u0440"),
     # Latin letters in a word of another script, known or not; a symbol beside a letter.
     ("x\u043e\u0440\u043e\u0448\u0438\u0439", "\u0445\u043e\u0440\u043e\u0448\u0438\u0439"),
     ("c\u0430\u0445\u0430\u0440\u0430 h\u03bd", "c\u0430\u0445\u0430\u0440\u0430 h\u03bd"),
     ("  a   film,\t \tthat \n  so  ", "  a film, that \n  so  "),
     ("he\u00a0 is\u3000\u3000it\u00a0so", "he is it\u00a0so")],
)  # fmt: skip
def test_look_alikes_and_spaces(text: str, read: str) -> None:
    assert learned(TEXTS)(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [("fiIm FiIm fiIrn FILRN", "film Film film FILRN"),
     ("w0nderfu1 vvonderfu1", "wonderful wonderful"),
     ("wonclerful Wondeiifui", "wonderful Wondeiifui"),
     # A word that is near comes first, and of those one that looks alike; names stay.
     ("Iove", "Love"), ("rnove", "move"), ("McIntyre HIFi", "McIntyre HIFi"), ("doveI filmI", None),
     ("clubbing", "clubbing"), ("SAVVDUST", "SAVVDUST"), ("savvdust", "sawdust"),
     # Numbers are no letters before and after words and where few are left, nor are words known.
     ("w0n0e5f1l", "w0n0e5f1l"), ("gpt40 50les rnove50", "gpt40 50les rnove50")],
)  # fmt: skip
def test_letters_that_look_alike_on_a_page(text: str, read: str | None) -> None:
    read = text if read is None else read
    more = ["move dove soles dubbing sawdust"] * 3 + ["love gpt4o"]
    assert learned([*TEXTS, *more * SURE])(text) == read


def test_look_alikes_are_learned_as_what_they_look_like() -> None:
    assert Spelling.of(["mo\u0432ie m\u043evie"] * SURE).words == {
        "movie": SURE,
        "mo\u0432ie": SURE,
    }


def test_short_words_are_left_where_few_are_known() -> None:
    texts = ["small wonderful"] * SURE
    assert Spelling.of(texts)("smalll shall wonderfull") == "small shall wonderful"
    assert learned(texts)("smalll shall wonderfull") == "small small wonderful"
    # The tokenizer's own words count where the texts have few.
    assert Spelling.of(texts, ["smalll"])("smalll") == "smalll"


def test_the_words_of_texts_do_not_depend_on_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wafergpt.data.spelling.MOST", 4)
    texts = [f"word{n:x}a" for n in range(10, 16)] * KNOWN + ["often"] * SURE
    first = Spelling.of(texts)
    assert list(first.words) == list(Spelling.of(texts[::-1]).words)
    assert next(iter(first.words)) == "often"
    # Those that can never be read or corrected are not kept.
    assert Spelling.of(["I 电影 " + "x" * 50] * SURE).words == {}


def test_words_of_two_lists() -> None:
    merged = Spelling({"storm": 3, "story": 9}).merged(Spelling({"storm": 5, "tower": 1}))
    assert merged.words == {"storm": 5, "story": 9, "tower": 1}
    assert merged.merged(Spelling({"tower": 1})).words == merged.words


words = st.text("abc", min_size=6, max_size=8)


@given(st.dictionaries(words, st.integers(SURE, 99), min_size=1), words)
def test_near_is_a_distance_of_one(known: dict[str, int], word: str) -> None:
    near = {o for o in known if nltk.edit_distance(word, o, transpositions=True) == 1}
    read = Spelling(known)(word)
    if word in known or not near:
        assert read == word
    else:
        assert read in near
        assert known[read] == max(known[other] for other in near)


@given(
    st.dictionaries(words, st.integers(SURE, 99), min_size=1),
    st.text("abcABCIl1rnm .@\u20191\u0430\u0441\u0431\t", max_size=99),
)
def test_a_text_that_was_read_stays(known: dict[str, int], text: str) -> None:
    spelling = Spelling(known)
    read = spelling(text)
    assert spelling(read) == read


@given(st.lists(st.text("abcA1@.\u0430", min_size=1, max_size=40)))
def test_what_stands_between_spaces_is_read_alone(parts: list[str]) -> None:
    spelling = Spelling({"abcabc": SURE, "cabcab": SURE})
    assert spelling(" ".join(parts)) == " ".join(map(spelling, parts))


@given(st.text("aBé1 "), st.text("cÄ2", min_size=1))
def test_case(model: str, word: str) -> None:
    assert cased_as(model, word).lower() == cased_as(model.swapcase(), word).lower()
    assert cased_as("model", word) == word
