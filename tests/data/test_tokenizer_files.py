"""Other people's tokenizers: the ids of transformers' AutoTokenizer, or a refusal by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")

LINES = [
    "It's a film that I loved in <city>, and it's a dull one!",
    "The city of Ulm: naïve façades, 2024 tabs\tand 你好.",
    "a low lower lowest </s> [SEP] unk",
]
TEXTS = [
    *LINES, "", " ", "<city>", "a<city>b", "a <city> b", "  <city>  <city>", "x<City>y <CITY>",
    "<cityx", "<mask>", " <mask> ", "a<mask>b", "word", "words word sword", "word<city>word",
    "<|endoftext|>", "a <|endoftext|> b<|endoftext|>", "</s>", "a</s>b </s>", "<unk> <s>", "[SEP]",
    "a [SEP] b", "[UNK] [CLS]", "<|im_end|>x", "emoji 🙂 and \x00\x1b \u0378 zzz", "\n\n\t  a  b ",
    "<city", "<ci<city>ty>", "İstanbul ǅ ß", "¡Hola! Привет", "<|end<city>oftext|>",
]  # fmt: skip


def byte_level() -> Backend:
    trained = Tokenizer.train(LINES, 300)
    return Backend.from_str(json.dumps(trained.definition))


def with_added() -> Backend:
    backend = byte_level()
    backend.add_tokens([
        AddedToken("<city>", special=False), AddedToken("word", single_word=True),
        AddedToken("<mask>", lstrip=True, normalized=False), AddedToken("zzz", rstrip=True),
        AddedToken("<|im_end|>", special=True),
    ])  # fmt: skip
    return backend


def lowercase_added() -> Backend:
    backend = with_added()
    backend.normalizer = normalizers.Lowercase()
    return backend


def merged() -> dict[str, Any]:
    """Return a vocabulary and merges of characters, as SentencePiece has them."""
    letters = sorted({*"▁" + "".join(LINES).replace(" ", "▁")})
    vocab = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    merges = []
    for pair in ("▁a", "lo", "ow", "▁lo", "er", "ci", "ty", "▁ci"):
        left, right = pair[:-1], pair[-1]
        if left in vocab and right in vocab and pair not in vocab:
            vocab[pair] = len(vocab)
            merges.append((left, right))
    return {"vocab": vocab, "merges": merges}


def metaspace() -> Backend:
    backend = Backend(models.BPE(**merged(), unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens(["<city>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return backend


def word_piece() -> Backend:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "low", "##er", "##est", "a", "the", "city", "film"]
    letters = sorted({*"".join(LINES).lower()})
    names = dict.fromkeys([*words, *letters, *(f"##{c}" for c in letters)])
    vocab = {token: index for index, token in enumerate(names)}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    backend.add_tokens(["<city>"])
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return backend


def unigram() -> Backend:
    letters = sorted({*"▁" + "".join(LINES).replace(" ", "▁")})
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁low", -3.0), ("er", -3.5)]
    backend = Backend(models.Unigram([*pieces, *((c, -6.0) for c in letters)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens(["<city>"])
    return backend


PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
TOKENIZERS: dict[str, tuple[Callable[[], Backend], dict[str, Any]]] = {
    "added, as it is": (with_added, PLAIN),
    "added, of GPT-2's class": (with_added, {"tokenizer_class": "GPT2TokenizerFast"}),
    "added, of no class": (with_added, {}),
    "lower case": (lowercase_added, PLAIN),
    "Metaspace that begins a text": (metaspace, {**PLAIN, "eos_token": "</s>"}),
    "WordPiece": (word_piece, {**PLAIN, "eos_token": "[SEP]"}),
    "BERT's class": (
        word_piece, {"tokenizer_class": "BertTokenizer", "sep_token": "[SEP]"}
    ),
    "Unigram": (unigram, {**PLAIN, "eos_token": "</s>"}),
}  # fmt: skip


def folder_of(path: Path, backend: Backend, **beside: Any) -> Path:
    path.mkdir()
    (path / "tokenizer.json").write_text(backend.to_str())
    (path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for name, content in beside.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def theirs(folder: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    given = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
    ids: list[list[int]] = given["input_ids"]
    return ids


@pytest.mark.parametrize(("make", "settings"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_ids_equal_auto_tokenizer(
    tmp_path: Path, make: Callable[[], Backend], settings: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path / "t", make(), tokenizer_config=settings)
    ours = Tokenizer.load(folder)
    for text, expected in zip(TEXTS, theirs(folder, TEXTS), strict=True):
        given = ours.encode(text)
        assert ours.end_of_text not in given, text
        if make is not unigram or not {"</s>", "<s>"} & {*text.split(), text[1:5], text[2:6]}:
            assert given == expected, text
    city = ours._whole.token_to_id("<city>")
    assert city is not None
    assert ours.encode("a<city>b").count(city) == 1
    assert ours.encode_batch(TEXTS) == [ours.encode(text) for text in TEXTS]


def test_a_special_token_written_in_a_text_is_text_in_a_unigram_too(tmp_path: Path) -> None:
    """Where AutoTokenizer gives the token itself."""
    folder = folder_of(tmp_path / "t", unigram(), tokenizer_config=TOKENIZERS["Unigram"][1])
    assert 2 in theirs(folder, ["a</s>b"])[0]
    ours = Tokenizer.load(folder)
    assert ours.end_of_text == 2
    for text in ("a</s>b", "</s>", " </s> ", "<s></s>"):
        assert not {1, 2} & {*ours.encode(text)}
        assert ours.decode(ours.encode(text)).strip() == text.strip()


SAID: dict[str, tuple[dict[str, Any], str]] = {
    "eos_token": ({"tokenizer_config": {**PLAIN, "eos_token": "<|im_end|>"}}, "<|im_end|>"),
    "with its flags": (
        {
            "tokenizer_config": {
                **PLAIN, "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}
            }
        },
        "<|im_end|>",
    ),
    "special_tokens_map": ({"special_tokens_map": {"eos_token": "<|im_end|>"}}, "<|im_end|>"),
    "config": ({"config": {"model_type": "gpt2", "eos_token_id": 304}}, "<|im_end|>"),
    "generation_config": ({"generation_config": {"eos_token_id": [304, 0]}}, "<|im_end|>"),
    "a word is no end": ({"config": {"model_type": "gpt2", "eos_token_id": 290}}, "<|endoftext|>"),
    "no such token": ({"config": {"model_type": "gpt2", "eos_token_id": 50256}}, "<|endoftext|>"),
    "the tokenizer's own first": (
        {
            "tokenizer_config": {**PLAIN, "eos_token": "<|endoftext|>"},
            "generation_config": {"eos_token_id": 304},
        },
        "<|endoftext|>",
    ),
    "nothing": ({}, "<|endoftext|>"),
    "a plain one becomes special": (
        {"tokenizer_config": {**PLAIN, "eos_token": "<city>"}}, "<city>"
    ),
    "one that is not there yet": (
        {"tokenizer_config": {**PLAIN, "eos_token": "<end>"}}, "<end>"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("beside", "end"), SAID.values(), ids=SAID)
def test_the_configured_end_of_text(tmp_path: Path, beside: dict[str, Any], end: str) -> None:
    folder = folder_of(tmp_path / "t", with_added(), **beside)
    ours = Tokenizer.load(folder)
    assert ours.token(ours.end_of_text) == end
    assert ours.end_of_text not in ours.encode(f"a{end}b {end}")
    texts = [f"a{end}b {end}", "<city> zzz  a"]
    assert [ours.encode(text) for text in texts] == theirs(folder, texts)
    # A run and a corpus keep it.
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.end_of_text == ours.end_of_text
    assert again.sha256() == ours.sha256()
    assert again.encode_batch(TEXTS) == ours.encode_batch(TEXTS)


def test_tokens_added_in_the_files_beside(tmp_path: Path) -> None:
    listed = {
        "300": {"content": "<x>", "special": False, "normalized": False, "lstrip": True,
                "rstrip": False, "single_word": False},
        "301": {"content": "<y>", "special": True},
    }  # fmt: skip
    settings = {**PLAIN, "added_tokens_decoder": listed}
    older = {**PLAIN, "pad_token": "<y>"}
    both: tuple[dict[str, Any], ...] = (
        {"tokenizer_config": settings},
        {"added_tokens": {"<y>": 301, "<x>": 300}, "tokenizer_config": older},
    )
    for number, beside in enumerate(both):
        folder = folder_of(tmp_path / f"t{number}", byte_level(), **beside)
        ours = Tokenizer.load(folder)
        texts = ["a <x>b", "a<x> <y>", "<y><x>"]
        assert [ours.encode(text) for text in texts] == theirs(folder, texts)
        assert ours.vocab_size == 302
        assert 300 in ours.encode("a <x>")
        assert 301 not in ours.encode("<y>")


def test_gpt2s_files_with_added_tokens(tmp_path: Path) -> None:
    model = Tokenizer.train(LINES, 300).definition["model"]
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in model["merges"]))
    (folder / "added_tokens.json").write_text(json.dumps({"<city>": 300, "<|im_end|>": 301}))
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>",
                "add_prefix_space": True}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = Tokenizer.load(folder)
    assert ours.end_of_text == 301
    assert [ours.encode(text) for text in TEXTS] == theirs(folder, TEXTS)


def changed(**parts: Any) -> Backend:
    return Backend.from_str(json.dumps({**json.loads(with_added().to_str()), **parts}))


def with_model(**parts: Any) -> Backend:
    content = json.loads(with_added().to_str())
    return Backend.from_str(json.dumps({**content, "model": {**content["model"], **parts}}))


def word_piece_by_spaces() -> Backend:
    backend = word_piece()
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def lower_case_alike() -> Backend:
    backend = lowercase_added()
    backend.add_tokens([AddedToken("<City>", normalized=True)])
    return backend


GPT2S = {"tokenizer_class": "GPT2Tokenizer"}
REFUSED: dict[str, tuple[Callable[[], Backend], dict[str, Any], str]] = {
    "dropout": (lambda: with_model(dropout=0.1), PLAIN, "different tokens each time (dropout=0.1)"),
    "another normalizer than its class": (
        lowercase_added, GPT2S, "has another normalizer than the tokenizer.json"
    ),
    "another pre-tokenizer than its class": (
        lambda: changed(pre_tokenizer={"type": "Whitespace"}), {}, "has another pre_tokenizer"
    ),
    "a prefix": (with_added, {**GPT2S, "add_prefix_space": True}, "add_prefix_space=True"),
    "merges ignored": (lambda: with_model(ignore_merges=True), GPT2S, "ignore_merges=False"),
    "a class of its own": (
        unigram, {"tokenizer_class": "T5Tokenizer"}, "'T5Tokenizer' of transformers has steps of"
    ),
    "a BERT's letters": (
        word_piece, {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}, "lowercase="
    ),
    "a program": (with_added, {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map"),
    "an end in the text": (
        word_piece_by_spaces, {**PLAIN, "eos_token": "[SEP]"}, "written in a text as the special"
    ),
    "alike": (lower_case_alike, PLAIN, "the same text, so it is unclear which"),
    "no end": (word_piece, PLAIN, "name it as eos_token in a tokenizer_config.json"),
    "a damaged list": (
        with_added, {**PLAIN, "added_tokens_decoder": {"x": 7}}, "special tokens are damaged"
    ),
    "an end that is a number": (with_added, {**PLAIN, "extra_special_tokens": [7]}, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_equal_is_refused_by_name(
    tmp_path: Path, make: Callable[[], Backend], settings: dict[str, Any], message: str
) -> None:
    folder = folder_of(tmp_path / "t", make(), tokenizer_config=settings)
    with pytest.raises(InputError) as caught:
        Tokenizer.load(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_way_out_of_a_class_works(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "t", lowercase_added())
    with pytest.raises(InputError, match='write "tokenizer_class": "PreTrainedTokenizerFast"'):
        Tokenizer.load(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(PLAIN))
    assert Tokenizer.load(folder).encode_batch(TEXTS) == theirs(folder, TEXTS)


@pytest.mark.slow
def test_gpt2s_own_bpe(tmp_path: Path, real_data: Path) -> None:
    backend = Backend.from_str(json.dumps(Tokenizer.load(real_data / "gpt2_bpe").definition))
    backend.add_tokens(["<city>"])
    folder = folder_of(tmp_path / "t", backend, tokenizer_config=GPT2S)
    assert Tokenizer.load(folder).encode_batch(TEXTS) == theirs(folder, TEXTS)
