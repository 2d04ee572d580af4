"""Hugging Face's GPT-2 folders, read: into a run like any other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wafergpt.config import Model, Task, recipe_from
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.tokenizer_files import BESIDE, DEFINITION, GPT2_NAMES
from wafergpt.errors import InputError, nearest
from wafergpt.files import SHOWN, short
from wafergpt.interop import folder as files
from wafergpt.interop.folder import Entry
from wafergpt.interop.gpt2 import hugging_face_names, is_transposed
from wafergpt.interop.hf_config import Described, describe
from wafergpt.model.gpt import GPT
from wafergpt.progress import working
from wafergpt.run import RUNS, Run
from wafergpt.train.given import require_new, run_with

CONFIG = "config.json"

_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Old folders carry the causal mask among their weights."""

TOKENIZER_FILES = (DEFINITION, *GPT2_NAMES[1])

UNREAD_TOKENIZERS = ("tokenizer.model", "spiece.model", "sentencepiece.model", "vocab.txt")
"""Of SentencePiece and of BERT; transformers makes a tokenizer.json of them."""


@dataclass(frozen=True)
class Imported:
    """A network read from a folder.

    Attributes:
        model: its shape.
        task: what it is for; None for a language model.
        weights: by our names, in fp32; of a classifier as ``Classifier`` names them.
    """

    model: Model
    task: Task | None
    weights: dict[str, Tensor]


def import_folder(
    folder: str | Path, name: str, root: Path = RUNS, ignore: Collection[str] = ()
) -> Run:
    """Make a run of a Hugging Face folder of a GPT-2.

    A language model (``GPT2LMHeadModel``, ``GPT2Model``) can then generate and be fine-tuned, a
    ``GPT2ForSequenceClassification`` predict. Tensors are read one at a time, so the memory is that
    of the weights in fp32. Nothing is written before everything was read and checked.

    Args:
        folder: with ``config.json``, safetensors (one file, or several with an index) and, if it
            has one, the tokenizer.
        name: of the run.
        root: the folder that holds runs.
        ignore: settings of ``config.json`` that are not known here, and are to be passed over:
            whoever names one says that the network is a GPT-2 all the same.

    Raises:
        InputError: if the folder is damaged, or holds what our network does not compute, or a
            tokenizer that would not give the ids of ``AutoTokenizer``.
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
    origin = {"imported": str(folder.resolve()), "tokens": None, "loss": None, "val_loss": None}
    return run_with(imported.weights, recipe, root, tokenizer, origin)


def _tokenizer(folder: Path) -> Tokenizer | None:
    for name in BESIDE:
        files.inside(folder, name)
    there = {name for name in TOKENIZER_FILES if files.inside(folder, name).is_file()}
    if DEFINITION in there or len(there) > 1:
        return Tokenizer.load(folder)
    for name in UNREAD_TOKENIZERS:
        if (folder / name).is_file():
            raise InputError(
                f"{folder / name} is no tokenizer that is read here: make a tokenizer.json of it, "
                'python -c "from transformers import AutoTokenizer as T; '
                f"T.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
    return None


def read_network(folder: Path, ignore: Collection[str] = ()) -> Imported:
    """Read the network of a folder.

    Raises:
        InputError: as ``import_folder``.
    """
    where = folder / CONFIG
    described = describe(files.read_object(folder, CONFIG, files.CONFIG_BYTES), where, ignore)
    found = _normal_names(files.entries(folder), folder)
    if described.classifies or "score.weight" in found:
        task = _task(described, found, folder)
        # It has no head for tokens; a tied one costs nothing.
        model = described.model.model_copy(update={"tied": True})
        wanted = _match(model, found, folder, n_outputs=found["score.weight"].shape[0])
        body = _read(wanted)
        score = body.pop("score.weight")
        weights = {f"gpt.{name}": tensor for name, tensor in body.items()}
        return Imported(model, task, {**weights, "score.weight": score})
    model = described.model
    copied = model.tied and "lm_head.weight" in found
    weights = _read(_match(model, found, folder, copied=copied))
    if copied and not torch.equal(weights.pop("lm_head.weight"), weights["embedding.weight"]):
        raise InputError(
            f"{where} ties the head to the embedding (tie_word_embeddings), but lm_head.weight is "
            "not wte.weight: which one is meant?"
        )
    return Imported(model, None, weights)


def _normal_names(found: Mapping[str, Entry], folder: Path) -> dict[str, Entry]:
    """Leave out the prefix of the body, and what is no weight."""
    normal: dict[str, Entry] = {}
    for full_name, entry in found.items():
        name = full_name.removeprefix("transformer.")
        if _MASKS.fullmatch(name):
            continue
        if name in normal:
            raise InputError(f"{folder}: {short(name)} is there with and without 'transformer.'")
        normal[name] = entry
    return normal


def _match(
    model: Model,
    found: Mapping[str, Entry],
    folder: Path,
    n_outputs: int | None = None,
    copied: bool = False,
) -> dict[str, Entry]:
    """Return by our name where each tensor is, every shape compared with the network's."""
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in GPT(model).state_dict().items()}
    names = hugging_face_names(model.n_layers)
    if copied or not model.tied:
        names["lm_head.weight"] = "lm_head.weight"
        shapes["lm_head.weight"] = (model.vocab_size, model.d_model)
    if n_outputs is not None:
        names["score.weight"] = "score.weight"
        shapes["score.weight"] = (n_outputs, model.d_model)
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
        if entry.kind not in files.TYPES:
            raise InputError(
                f"{entry.file}: '{theirs}' is {entry.kind}; only {', '.join(files.TYPES)} are read"
            )
        wanted[ours] = entry
    return wanted


def _read(wanted: Mapping[str, Entry]) -> dict[str, Tensor]:
    return {
        name: (tensor.T if is_transposed(name) else tensor).contiguous()
        for name, tensor in files.read(wanted)
    }


def _task(described: Described, found: Mapping[str, Entry], folder: Path) -> Task:
    score = found.get("score.weight")
    if score is None or len(score.shape) != 2:
        raise InputError(f"{folder}: a classifier needs the tensor 'score.weight'")
    n_outputs = score.shape[0]
    # As transformers has it: one output is a number, unless something else is said.
    if n_outputs == 1:
        if described.problem_type == "single_label_classification":
            raise InputError(f"{folder}: one output cannot choose between labels")
        return Task(loss="squared_error")
    if described.problem_type == "regression":
        raise InputError(f"{folder}: a regression to {n_outputs} numbers cannot be imported")
    labels = described.labels or tuple(f"LABEL_{index}" for index in range(n_outputs))
    if len(labels) != n_outputs or len(set(labels)) != n_outputs:
        raise InputError(
            f"{folder}: id2label names {len(set(labels))} labels for {n_outputs} outputs"
        )
    return Task(labels=labels)
