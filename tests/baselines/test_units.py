"""What is a word, told from the texts."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import pytest
from sklearn.feature_extraction.text import CountVectorizer

from wafergpt.baselines.units import Units, word_pattern

REVIEW = "It's a quiet, moving film and <br />I did not want it to END; 10/10!"

SPACED = {
    "english": "a long film about a long war",
    "german": "Über die Brücke läuft ein müder Mann",
    "russian": "Очень хороший фильм, смотреть всем",
    "greek": "πολύ καλή ταινία για όλους",
    "arabic": "هذا الفيلم رائع جدا",
    "hindi": "यह फ़िल्म बहुत अच्छी थी",
    "tamil": "இந்த திரைப்படம் மிகவும் நன்றாக இருந்தது",
    "korean": "정말 재미있는 영화 였어요",
    "vietnamese": "Bộ phim này rất hay",
    "mostly english": f"{REVIEW} Its Chinese title is 花样年华.",
}
UNSPACED = {
    "chinese": "这家酒店的服务非常好，房间也很干净。",
    "with english words": "iPhone的屏幕很好，但是 battery life 太短了，不推荐给 business 用户。",
    "with a link": "今天的会议非常成功 http://t.cn/RqXY7ab 谢谢 @David",
    "japanese": "とても面白い映画でした。ぜひ見てください。",
    "katakana": "スマートフォン",
    "thai": "ภาพยนตร์เรื่องนี้สนุกมาก",
    "lao": "ຮູບເງົາເລື່ອງນີ້ມ່ວນຫຼາຍ",
    "khmer": "ខ្សែភាពយន្តនេះល្អណាស់",
    "burmese": "ဒီရုပ်ရှင်ကအရမ်းကောင်းတယ်",
    "emoji": "😀😀 👍🏽",
    "names": "Nakamura",
    "sequences": "ACGTTGCATTGACCA",
    "signs": "?!",
    "letters": "a b a",
}


@pytest.mark.parametrize("name", SPACED)
def test_spaced_texts_are_of_words(name: str) -> None:
    units = Units.of([SPACED[name]] * 3)
    assert not units.characters
    assert units.suffix == ""


@pytest.mark.parametrize("name", UNSPACED)
def test_texts_without_spaces_are_of_characters(name: str) -> None:
    units = Units.of([UNSPACED[name]] * 3)
    assert units.characters
    assert units.suffix == " of characters"
    assert units.split(UNSPACED[name]) == list("".join(UNSPACED[name].lower().split()))


def test_english_is_split_into_a_to_z_even_with_a_foreign_name_in_it() -> None:
    units = Units.of([REVIEW] * 30 + ["At the café"])
    assert units == Units(characters=False, english=True)
    assert units.split(REVIEW)[:5] == ["it's", "a", "quiet", "moving", "film"]
    assert units.split("<b>At</b> the Café") == ["at", "the", "caf"]


@pytest.mark.parametrize("name", [n for n in SPACED if "english" not in n])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_are_whole_in_every_alphabet(name: str, form: Literal["NFC", "NFD"]) -> None:
    text = unicodedata.normalize(form, SPACED[name].lower())
    words = [word.strip(",") for word in text.split()]
    assert Units.of([text]).split(text) == words
    assert re.findall(word_pattern(), text) == words


def test_words_without_marks_are_those_of_sklearn() -> None:
    texts = [REVIEW, *(SPACED[n] for n in ("german", "russian", "greek", "arabic", "korean"))]
    ours, theirs = CountVectorizer(token_pattern=word_pattern()), CountVectorizer()
    for vectorizer in (ours, theirs):
        vectorizer.fit([*texts, "a_b 1 22 x-ray _ __ naïve"])
    assert ours.vocabulary_ == theirs.vocabulary_


def test_emoji_are_no_words_beside_words() -> None:
    text = "Très bien ❤️ 👍🏽 l'été"
    assert Units.of([text]).split(text) == ["très", "bien", "l'été"]


def test_few_of_many_texts_decide_nothing() -> None:
    texts = [REVIEW] * 9 + [UNSPACED["chinese"]]
    assert not Units.of(texts * 1000).characters
    assert Units.of([UNSPACED["chinese"]] * 6000 + [REVIEW] * 1000).characters
    assert Units.of([]) == Units()
