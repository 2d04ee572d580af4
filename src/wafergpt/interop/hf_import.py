"""Import of Hugging Face's GPT-2 folders as runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wafergpt.checkpoint.imported_run import require_new, run_with
from wafergpt.config import Model, TaskSettings, recipe_from
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.tokenizer_files import (
    BESIDE,
    DEFINITION,
    GPT2_FILES,
    GPT2_NAMES,
    SETTINGS,
    SPELLING,
)
from wafergpt.errors import InputError, nearest
from wafergpt.files import SHOWN, short
from wafergpt.interop import safetensors_reader as files
from wafergpt.interop.gpt2 import hugging_face_names, is_transposed
from wafergpt.interop.hf_config import Described, describe
from wafergpt.interop.safetensors_reader import Entry
from wafergpt.logs import say
from wafergpt.model.empty import empty
from wafergpt.model.gpt import GPT
from wafergpt.progress import working
from wafergpt.runs.run import RUNS, Run
from wafergpt.shapes.counts import pooled_width
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.regress import RegressSettings

CONFIG = "config.json"

_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Old folders contain the causal mask among their weights."""

TOKENIZER_FILES = (DEFINITION, *GPT2_NAMES[1])

UNREAD_TOKENIZERS = ("tokenizer.model", "spiece.model", "sentencepiece.model", "vocab.txt")
"""Files of SentencePiece and BERT; transformers can convert them to a tokenizer.json."""


@dataclass(frozen=True)
class Imported:
    """A network read from a folder.

    Attributes:
        model: its shape.
        task: its task; None for a language model.
        weights: by our names, in fp32; a classifier has those of ``Classifier``.
    """

    model: Model
    task: TaskSettings | None
    weights: dict[str, Tensor]


def import_folder(
    folder: str | Path, name: str, root: Path = RUNS, ignore: Collection[str] = ()
) -> Run:
    """Make a run from a Hugging Face folder of a GPT-2.

    A language model (``GPT2LMHeadModel``, ``GPT2Model``) can then generate and be fine-tuned, and a
    ``GPT2ForSequenceClassification`` can predict. Tensors are read one at a time, so the memory is
    that of the weights in fp32. Nothing is written before everything was read and checked.

    Args:
        folder: with ``config.json``, safetensors (one file, or several with an index) and, if it
            has one, the tokenizer.
        name: the name of the run.
        root: the folder of runs.
        ignore: unknown settings of ``config.json`` that do not change the network.

    Raises:
        InputError: if the folder is damaged, or has a network that is not supported, or a tokenizer
            whose ids may differ from those of ``AutoTokenizer``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give one with {CONFIG} and safetensors")
    recipe = recipe_from({"name": name})
    require_new(name, root)
    tokenizer = _tokenizer(folder)
    with working(f"reading {folder}"):
        imported = read_network(folder, ignore)
    recipe = recipe.replace(model=imported.model)
    if imported.task is not None:
        recipe = recipe.replace(task=imported.task)
    if tokenizer is not None:
        tokenizer.require_at_most(imported.model.vocab_size, folder)
        _require_nothing_around(tokenizer, folder, imported.task)
    origin = {"imported": str(folder.resolve()), "tokens": None, "loss": None, "val_loss": None}
    return run_with(imported.weights, recipe, root, tokenizer, origin)


CONVERTING = (
    "import sys; from transformers import AutoTokenizer as T; "
    "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
)
"""Program that writes a tokenizer of a folder as a tokenizer.json."""


def _require_nothing_around(tokenizer: Tokenizer, folder: Path, task: TaskSettings | None) -> None:
    """Refuse, or for a language model note, tokens that transformers puts around each text."""
    if not (around := tokenizer.around()):
        return
    told = f"{folder}: its tokenizer puts {', '.join(map(repr, around))} around each text, "
    if task is not None:
        raise InputError(f"{told}which is not supported: the classifier would read other texts")
    say(f"warning: {told}which is left out here: prompts are read as they are")


def _tokenizer(folder: Path) -> Tokenizer | None:
    for name in BESIDE:
        files.inside(folder, name)
    for name in (DEFINITION, SPELLING, *GPT2_FILES):
        # Others of these beginnings are read too, such as vocab.json.gz.
        for path in folder.glob(f"{name}*"):
            files.inside(folder, path.name)
    there = {name for name in TOKENIZER_FILES if files.inside(folder, name).is_file()}
    if DEFINITION in there or len(there) > 1:
        return Tokenizer.load(folder).with_spelling(None)
    for name in UNREAD_TOKENIZERS:
        if (folder / name).is_file():
            raise InputError(
                f"{folder / name} is not a supported tokenizer: convert it to a tokenizer.json, "
                + shlex.join(["python", "-c", CONVERTING, str(folder)])
            )
    return None


def read_network(folder: Path, ignore: Collection[str] = ()) -> Imported:
    """Read the network of a folder.

    Args:
        folder: with ``config.json`` and safetensors.
        ignore: unknown settings of ``config.json`` that do not change the network.

    Raises:
        InputError: as ``import_folder``.
    """
    where = folder / CONFIG
    described = describe(files.read_object(folder, CONFIG, files.CONFIG_BYTES), where, ignore)
    found = _normal_names(files.entries(folder), folder)
    if described.classifies or "score.weight" in found:
        task = _task(described, found, folder)
        # It has no head for tokens; a tied one takes no memory.
        model = described.model.model_copy(update={"tied": True})
        outputs = found["score.weight"].shape[0]
        width = pooled_width(model, described.pooling)
        wanted = _match(model, found, folder, score=(outputs, width))
        body = _read(wanted)
        score = body.pop("score.weight")
        weights = {f"gpt.{name}": tensor for name, tensor in body.items()}
        return Imported(model, task, {**weights, "head.weight": score})
    model = described.model
    copied = model.tied and "lm_head.weight" in found
    weights = _read(_match(model, found, folder, copied=copied))
    if copied and not torch.equal(weights.pop("lm_head.weight"), weights["embedding.weight"]):
        raise InputError(
            f"{where} ties the head to the embedding (tie_word_embeddings), but the tensor "
            "lm_head.weight is not equal to wte.weight: set it to false, or remove the tensor"
        )
    return Imported(model, None, weights)


def _normal_names(found: Mapping[str, Entry], folder: Path) -> dict[str, Entry]:
    """Remove the prefix of the body, and entries that are not weights."""
    normal: dict[str, Entry] = {}
    for full_name, entry in found.items():
        name = full_name.removeprefix("transformer.")
        if _MASKS.fullmatch(name):
            continue
        if name in normal:
            raise InputError(f"{folder}: {short(name)} exists with and without 'transformer.'")
        normal[name] = entry
    return normal


def _match(
    model: Model,
    found: Mapping[str, Entry],
    folder: Path,
    score: tuple[int, int] | None = None,
    copied: bool = False,
) -> dict[str, Entry]:
    """Return the entry of each tensor by our name, after comparing its shape with the network's."""
    weights = empty(partial(GPT, model)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    names = hugging_face_names(model)
    if copied or not model.tied:
        names["lm_head.weight"] = "lm_head.weight"
        shapes["lm_head.weight"] = (model.vocab_size, model.d_model)
    if score is not None:
        names["score.weight"] = "score.weight"
        shapes["score.weight"] = score
    extra = sorted(found.keys() - names.values())
    if extra:
        raise InputError(
            f"{folder}: the tensor {short(extra[0])} has no place in the network that "
            f"{CONFIG} describes{nearest(extra[0][:SHOWN], names.values() - found.keys())}"
        )
    wanted = {}
    for ours, theirs in names.items():
        shape = shapes[ours][::-1] if is_transposed(ours) else shapes[ours]
        entry = found.get(theirs)
        if entry is None:
            raise InputError(f"{folder}: the tensor '{theirs}' is missing")
        if entry.shape != shape:
            raise InputError(
                f"{entry.file}: '{theirs}' is {list(entry.shape)}, but {CONFIG} makes it "
                f"{list(shape)}"
            )
        kinds = files.TYPES if ours.endswith(("weight", "bias")) else (files.WHOLE,)
        if entry.kind not in kinds:
            raise InputError(
                f"{entry.file}: '{theirs}' is {entry.kind}; only {', '.join(kinds)} are read"
            )
        wanted[ours] = entry
    return wanted


def _read(wanted: Mapping[str, Entry]) -> dict[str, Tensor]:
    return {
        name: (tensor.T if is_transposed(name) else tensor).contiguous()
        for name, tensor in files.read(wanted)
    }


def _task(described: Described, found: Mapping[str, Entry], folder: Path) -> TaskSettings:
    score = found.get("score.weight")
    if score is None or len(score.shape) != 2:
        raise InputError(f"{folder}: a classifier needs the tensor 'score.weight'")
    n_outputs = score.shape[0]
    # As in transformers, one output is a number unless problem_type is set.
    if n_outputs == 1:
        if described.problem_type == "single_label_classification":
            raise InputError(f"{folder}: one output cannot choose between labels")
        return RegressSettings(pooling=described.pooling, **_length(folder, described))
    if described.problem_type == "regression":
        raise InputError(f"{folder}: a regression to {n_outputs} numbers cannot be imported")
    labels = described.labels or tuple(f"LABEL_{index}" for index in range(n_outputs))
    if len(labels) != n_outputs or len(set(labels)) != n_outputs:
        raise InputError(
            f"{folder}: id2label names {len(set(labels))} labels for {n_outputs} outputs"
        )
    return ClassifySettings(labels=labels, pooling=described.pooling, **_length(folder, described))


def _length(folder: Path, described: Described) -> dict[str, Any]:
    """Return how long a text may be, and where it is cut, as its tokenizer says."""
    if not (folder / SETTINGS).is_file():
        return {}
    told = files.read_object(folder, SETTINGS, files.CONFIG_BYTES)
    found: dict[str, Any] = {"cut": "start"} if told.get("truncation_side") == "left" else {}
    most = told.get("model_max_length")
    # transformers writes a huge number for no limit.
    if type(most) is int and 0 < most < described.model.seq_len:
        found["max_tokens"] = most
    return found
