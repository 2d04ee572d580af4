"""Tokenizers on disk: ours, GPT-2's, and others with the files beside their tokenizer.json.

Hugging Face's folders define in several files which tokens were added after the training, and which
one ends a text. A tokenizer that is read here gives the ids of ``transformers.AutoTokenizer``; one
that may not is refused by name.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt import atomic_files, files
from wafergpt.data.spelling import Spelling
from wafergpt.errors import InputError
from wafergpt.files import short

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
"""Common names of the token that ends a document; the first in the vocabulary is used."""

DEFINITION, SETTINGS, SPELLING = "tokenizer.json", "tokenizer_config.json", "spelling.json"

GPT2_NAMES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""File names of GPT-2's vocabulary and merges, OpenAI's and Hugging Face's."""

GPT2_FILES = tuple(name for names in GPT2_NAMES for name in names)

BESIDE = (
    SETTINGS, "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "config.json",
)  # fmt: skip
"""Files beside a tokenizer that may configure it."""

FILE_BYTES = 64 << 20
"""A larger file is not a tokenizer: one of 256 thousand tokens has 33 MB."""

SETTINGS_BYTES = 16 << 20

AS_IT_IS = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
"""Classes of transformers that use tokenizer.json alone; others add steps of their own."""


@dataclass(frozen=True)
class Found:
    """A tokenizer that was read.

    Attributes:
        definition: the content of a ``tokenizer.json``.
        end: the token that ends a text, if it is configured and is not the default.
        where: the name to use in errors.
        spelling: the words that texts are read with, if they are read so.
    """

    definition: str
    end: str | None
    where: str
    spelling: Spelling | None = None


def find(path: Path) -> Found:
    """Read a ``tokenizer.json``, or GPT-2's files, and the files beside them.

    Raises:
        InputError: if there is none, or its ids may differ from those of ``AutoTokenizer``.
    """
    folder = path if path.is_dir() else path.parent
    whole = folder / DEFINITION if path.is_dir() else path
    if whole.is_file() and not whole.name.startswith(GPT2_FILES):
        definition = _read(whole)
        if not whole.name.startswith(DEFINITION):
            return Found(definition, None, str(whole))
        return replace(_as_configured(definition, folder, whole), spelling=_spelling(folder))
    for names in GPT2_NAMES:
        pair = [p for n in names for p in sorted(folder.glob(f"{n}*"))[:1] if p.is_file()]
        if len(pair) == len(names):
            definition = _gpt2_definition(_read(pair[0]), _read(pair[1]), folder)
            return _as_configured(definition, folder, folder)
    raise InputError(f"no tokenizer at {path}: a tokenizer.json, or encoder.json and vocab.bpe")


def build(definition: str, where: str) -> tokenizers.Tokenizer:
    """Build the object that encodes and decodes.

    Raises:
        InputError: if the definition is not a tokenizer.
    """
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_str(definition)
    except (KeyboardInterrupt, SystemExit):
        raise
    # A Rust panic is not an Exception.
    except BaseException as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{where} is not a tokenizer: {reason}") from None


def default_end(backend: tokenizers.Tokenizer) -> str | None:
    """Return the end of a text if none is configured."""
    return next((end for end in ENDS if backend.token_to_id(end) is not None), None)


def save_end(path: Path, end: str) -> None:
    """Write beside a ``tokenizer.json`` the token that ends a text."""
    settings = {"tokenizer_class": AS_IT_IS[0], "eos_token": end}
    atomic_files.write_json(path.with_name(SETTINGS), settings)


def save_spelling(path: Path, spelling: Spelling) -> None:
    """Write beside a ``tokenizer.json`` the words that texts are read with."""
    atomic_files.write_json(path.with_name(SPELLING), spelling.words)


def _spelling(folder: Path) -> Spelling | None:
    if not files.is_file(folder / SPELLING):
        return None
    words = _object(folder / SPELLING)
    if not all(isinstance(count, int) for count in words.values()):
        raise InputError(f"{folder / SPELLING} is damaged: it has words without a count")
    return Spelling(words)


def _as_configured(definition: str, folder: Path, where: Path) -> Found:
    beside = {name: _object(folder / name) for name in BESIDE}
    if not any(beside.values()):
        return Found(definition, None, str(where))
    backend = build(definition, str(where))
    before = backend.to_str()
    _require_its_own_steps(json.loads(before), beside, folder)
    settings = beside[SETTINGS]
    try:
        named, extra = _special_tokens(settings, beside["special_tokens_map.json"])
        _add(backend, settings, beside["added_tokens.json"], {*named.values(), *extra})
        ends = [named.get("eos_token"), *_ends_by_id(backend, beside)]
        end = next((e for e in ends if e is not None), None) or default_end(backend)
        # The token that ends the texts of a BERT's tokenizer.
        end = end or named.get("sep_token")
        if end is not None and backend.token_to_id(end) is None:
            backend.add_special_tokens([end])
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: the added or special tokens are damaged: {reason}") from None
    after = backend.to_str()
    changed = definition if after == before else str(after)
    return Found(changed, end if end != default_end(backend) else None, str(where))


def _object(path: Path) -> dict[str, Any]:
    if not files.is_file(path):
        return {}
    value = files.read_json(path, SETTINGS_BYTES)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object")
    return value


def _special_tokens(
    settings: Mapping[str, Any], mapped: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Return the special tokens that have a name (``eos_token`` …), and the others."""
    # As in transformers, the list of added tokens replaces the older file.
    said = dict(settings) if "added_tokens_decoder" in settings else {**settings, **mapped}
    named = {
        key: _content(value)
        for key, value in said.items()
        if key.endswith("_token") and isinstance(value, str | dict)
    }
    extra: list[str] = []
    for key in ("extra_special_tokens", "additional_special_tokens"):
        listed = said.get(key) or []
        extra += map(_content, listed.values() if isinstance(listed, dict) else listed)
    return named, extra


def _content(token: Any) -> str:
    content = token["content"] if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise TypeError(f"{short(token)} is not a token")
    return content


def _add(
    backend: tokenizers.Tokenizer,
    settings: Mapping[str, Any],
    older: Mapping[str, Any],
    special: set[str],
) -> None:
    """Add the tokens from the files beside the tokenizer, in the order of transformers."""
    from tokenizers import AddedToken

    there = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    if "added_tokens_decoder" in settings:
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        listed = {
            int(index): AddedToken(
                _content(token), **{flag: token[flag] for flag in flags if flag in token}
            )
            for index, token in settings["added_tokens_decoder"].items()
        }
    else:
        listed = {
            int(index): AddedToken(content, normalized=content not in special)
            for content, index in older.items()
        }
    tokens = [token for _, token in sorted(listed.items()) if repr(token) not in there]
    for token in tokens:
        token.special = token.special or token.content in special
    backend.add_tokens(tokens)
    added = backend.get_added_tokens_decoder().values()
    plain = [token.content for token in added if not token.special and token.content in special]
    backend.add_special_tokens(plain)


def _ends_by_id(
    backend: tokenizers.Tokenizer, beside: Mapping[str, Mapping[str, Any]]
) -> Iterator[str | None]:
    added = backend.get_added_tokens_decoder()
    for name in ("generation_config.json", "config.json"):
        said = beside[name].get("eos_token_id")
        for index in said if isinstance(said, list) else [said]:
            # Configurations may keep GPT-2's 50256 where that id is no token, or a word.
            if type(index) is int and 0 <= index < 1 << 32:
                token = backend.id_to_token(index)
                yield token if index in added or token in ENDS else None


def _require_its_own_steps(
    content: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]], folder: Path
) -> None:
    """Refuse a class of transformers whose steps differ from the tokenizer.json.

    Some versions of transformers use the class, some the file.

    Raises:
        InputError: naming the class and the step.
    """
    settings, model = beside[SETTINGS], beside["config.json"]
    where = folder / SETTINGS
    if settings.get("auto_map"):
        raise InputError(f"{where}: auto_map: the tokenizer is a program, which is never run")
    said = settings.get("tokenizer_class") or model.get("tokenizer_class")
    kind = str(said or ("GPT2Tokenizer" if model.get("model_type") == "gpt2" else AS_IT_IS[0]))
    if kind in AS_IT_IS:
        return
    kind = kind.removesuffix("Fast")
    way_out = (
        f'if the tokenizer.json is right, write "tokenizer_class": "{AS_IT_IS[0]}" into {where}'
    )
    steps = _steps(kind, settings)
    if steps is None:
        raise InputError(
            f"{folder}: the class {short(kind)} of transformers has steps of its own, and may give "
            f"other tokens than the tokenizer.json: {way_out}"
        )
    for step, expected in steps.items():
        given = content.get(step)
        given = {} if given is None else given
        for key, value in expected.items():
            if given.get(key) != value and (given.get(key) or value):
                raise InputError(
                    f"{folder}: the class {kind} of transformers has another {step} than the "
                    f"tokenizer.json ({key}={short(value)}, not {short(given.get(key))}): {way_out}"
                )
    listed = settings.get("added_tokens_decoder")
    if isinstance(listed, dict):
        names = {token.get("content") for token in listed.values() if isinstance(token, dict)}
        for token in content.get("added_tokens") or ():
            if not token["special"] and token["content"] not in names:
                raise InputError(
                    f"{folder}: the added token {short(token['content'])} of the tokenizer.json is "
                    f"not in {SETTINGS}: {way_out}"
                )


def _steps(kind: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Return the steps of a known class, which override the tokenizer.json."""
    if kind == "GPT2Tokenizer":
        prefix = bool(settings.get("add_prefix_space", False))
        return {
            "normalizer": {"type": None},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": True},
            "model": {
                "type": "BPE", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            },
        }  # fmt: skip
    if kind == "BertTokenizer":
        return {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
                "strip_accents": settings.get("strip_accents"),
                "lowercase": settings.get("do_lower_case", True),
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {
                "type": "WordPiece",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            },
        }
    return None


def _read(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
        if len(data) > FILE_BYTES:
            raise InputError(f"{path} is too large for a tokenizer")
        return data.decode()
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{path} is not a tokenizer: not readable text") from None


def _gpt2_definition(encoder: str, merges: str, folder: Path) -> str:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    prefix = bool(_object(folder / SETTINGS).get("add_prefix_space", False))
    try:
        vocab: dict[str, Any] = json.loads(encoder)
        lines = merges.split("\n")
        # The first line names the version, where there is one.
        rest = lines[1:] if lines[0].startswith("#version") else lines
        halves = [line.rstrip("\r").partition(" ") for line in rest if line.strip()]
        pairs = [(left, right) for left, _, right in halves]
        model = models.BPE(vocab, pairs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{folder}: vocabulary and merges do not match: {reason}") from None
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocab:
        backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    definition: str = backend.to_str()
    return definition
