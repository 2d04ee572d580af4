"""A folder that ``transformers`` loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from wafergpt import atomic_files
from wafergpt.data.dialogues import TEMPLATE
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.tokenizer_files import DEFINITION, SETTINGS
from wafergpt.errors import InputError, RunFailed
from wafergpt.files import system_errors
from wafergpt.interop import hf_config
from wafergpt.interop.export_source import Source, classifier_network, language_model
from wafergpt.interop.gpt2 import hugging_face_names, is_transposed
from wafergpt.interop.hf_import import CONFIG, read_network
from wafergpt.interop.logit_check import TOLERANCE, Checked, Network
from wafergpt.interop.safetensors_reader import WEIGHTS
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.progress import working
from wafergpt.tasks.text_settings import TextTaskSettings

NETWORK = f"{hf_config.NGRAM_MODULE}.py"
"""What transformers needs to compute n-gram embeddings and pooled heads."""

SAMPLE = "It's 7 o'clock: naïve «façades», 你好!\n\n\tIndented  text.  "
"""A text that both tokenizers must encode to the same tokens."""


def write_folder(source: Source, out: Path) -> Checked:
    """Write a run as a Hugging Face folder, which appears after its logits were compared.

    Raises:
        InputError: if transformers cannot express the classifier.
        RunFailed: if the logits of the export differ.
    """
    warnings = _require_expressible(source)
    n_outputs = None if source.score is None else len(source.score)
    config = hf_config.write(source.model, source.end_of_text(), source.recipe, n_outputs)
    with atomic_files.appearing(out) as folder:
        _write_json(folder / CONFIG, config)
        with system_errors():
            save_file(_tensors(source), folder / WEIGHTS, metadata={"format": "pt"})
        if hf_config.needs_module(source.model, source.recipe.task):
            shutil.copyfile(Path(__file__).parent / NETWORK, folder / NETWORK)
        if source.tokenizer is not None:
            _write_json(folder / DEFINITION, _tokenizer_definition(source.tokenizer))
            _write_json(folder / SETTINGS, _tokenizer_config(source))
        checked = _compare(source, folder, warnings)
        # A NaN is reported as infinity.
        if checked.difference > TOLERANCE:
            raise RunFailed(
                f"{out} was not written: {checked.by} computes other logits than the run "
                f"(relative difference {checked.difference:.2g}, allowed {TOLERANCE:g})"
            )
    return checked


def _require_expressible(source: Source) -> tuple[str, ...]:
    task = source.recipe.task
    if task is None:
        return ()
    assert isinstance(task, TextTaskSettings)
    if task.ngrams != "none":
        raise InputError(
            f"{source.run.path}: task.ngrams={task.ngrams} has no form in transformers, whose "
            "classifiers read tokens alone: use --format onnx"
        )
    if task.spelling:
        raise InputError(
            f"{source.run.path}: task.spelling has no form in transformers, whose tokenizers know "
            "no words: use --format onnx"
        )
    for key in ("multi", "offsets"):
        if getattr(task, key, False):
            raise InputError(
                f"{source.run.path}: task.{key} decides by more than transformers' logits: use "
                "--format onnx"
            )
    if source.tokenizer is None:
        raise InputError(
            f"{source.run.path}: a classifier without a tokenizer has no padding token"
        )
    warnings: tuple[str, ...] = ()
    if task.cut == "middle":
        warnings += (
            "task.cut=middle has no counterpart in transformers, which cuts long texts at the end",
        )
    if getattr(task, "abstain_below", 0.0):
        warnings += (
            "transformers answers whatever the probability is: task.abstain_below is lost",
        )
    if getattr(task, "hierarchy", ""):
        warnings += ("transformers answers with leaves alone: task.hierarchy is lost",)
    if len(task.columns) > 1:
        warnings += (
            f"transformers reads one text: join the columns {', '.join(task.columns)} with a line "
            "break, and cut the longest first",
        )
    return warnings


def _tensors(source: Source) -> dict[str, Tensor]:
    tensors = {}
    for ours, theirs in hugging_face_names(source.model).items():
        tensor = source.body[ours]
        value = tensor.T if is_transposed(ours) else tensor
        tensors[f"transformer.{theirs}"] = value.contiguous()
    if source.score is not None:
        tensors["score.weight"] = source.score.contiguous()
    elif not source.model.tied:
        tensors["lm_head.weight"] = source.body["lm_head.weight"].contiguous()
    return tensors


def _tokenizer_definition(tokenizer: Tokenizer) -> dict[str, Any]:
    definition = tokenizer.definition
    after = definition.get("post_processor")
    if after is not None and after["type"] != "ByteLevel":
        # It would add tokens around a text, which the network was not trained on.
        definition["post_processor"] = None
    return definition


def _tokenizer_config(source: Source) -> dict[str, Any]:
    tokenizer, task = source.tokenizer, source.recipe.task
    assert tokenizer is not None
    assert task is None or isinstance(task, TextTaskSettings)
    end = tokenizer.token(tokenizer.end_of_text)
    own = source.run.recipe.task
    talks = own is not None and own.name == "dialogue"
    return {
        **({"chat_template": TEMPLATE} if talks else {}),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "padding_side": "right",
        "truncation_side": "left" if task and task.cut == "start" else "right",
        "model_max_length": (task.max_tokens if task else 0) or source.model.seq_len,
        "clean_up_tokenization_spaces": False,
        # A text to classify has no control tokens, whatever is written in it.
        **({"split_special_tokens": True} if task else {}),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _compare(source: Source, folder: Path, warnings: tuple[str, ...]) -> Checked:
    try:
        with working("loading transformers"):
            import transformers
    except ImportError:
        return Checked(source.difference(_through_our_import(folder)), "wafergpt import", warnings)
    with _quiet(transformers):
        plain = hf_config.CAUSAL if source.score is None else hf_config.CLASSIFIER
        if hf_config.needs_module(source.model, source.recipe.task):
            from wafergpt.interop import modeling_ngram_gpt2

            kind = getattr(modeling_ngram_gpt2, hf_config.NGRAM_PREFIX + plain)
        else:
            kind = getattr(transformers, plain)
        model = kind.from_pretrained(folder, local_files_only=True).eval()
        if source.tokenizer is not None:
            theirs = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            end = source.tokenizer.token(source.tokenizer.end_of_text)
            # Those of a language model end a text there, as those of GPT-2 do.
            sample = SAMPLE if source.recipe.task is None else f"{SAMPLE}{end} a{end}"
            if theirs(sample)["input_ids"] != source.tokenizer.encode(sample):
                warnings += ("AutoTokenizer reads some texts as other tokens than wafergpt",)
        difference = source.difference(lambda tokens, lengths: model(tokens).logits.float())
    return Checked(difference, f"transformers {transformers.__version__}", warnings)


def _through_our_import(folder: Path) -> Network:
    read = read_network(folder)
    gpt = GPT(read.model)
    if read.task is None:
        gpt.load_state_dict(read.weights)
        return language_model(gpt)
    pooling = hf_config.pooling_of(read.task)
    classifier = Classifier(gpt, len(read.weights["head.weight"]), pooling)
    classifier.load_state_dict(read.weights)
    return classifier_network(classifier)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Suppress its progress bars and messages."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
