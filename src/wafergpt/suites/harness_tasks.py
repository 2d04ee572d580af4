"""Tasks of lm-evaluation-harness from local files, and what published models reach in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wafergpt.data.json_rows import json_rows
from wafergpt.errors import InputError

Doc = Mapping[str, Any]

MARK = "Answer:"
"""What a question ends with."""

QUESTIONS = ("piqa", "arc_easy", "arc_challenge", "openbook_qa", "copa", "commonsense_qa", "siqa",
             "boolq")  # fmt: skip
SENTENCES = ("winogrande", "winograd_wsc")
WORDS = ("lambada_openai",)

NORMED = ("hellaswag",)
"""Tasks of the published table that are scored by ``acc_norm``; the others by ``acc``."""

PUBLISHED: tuple[dict[str, Any], ...] = tuple(
    {"name": f"{kind} {size}", "parameters": parameters, "scores": dict(
        zip(("hellaswag", "piqa", "winogrande", "lambada_openai", "arc_easy", "arc_challenge",
             "openbook_qa"), scores, strict=True))}
    for kind, size, parameters, scores in (
        ("Cerebras-GPT", "111M", 111_050_496, (.268, .594, .488, .194, .380, .166, .118)),
        ("Cerebras-GPT", "256M", 255_977_024, (.274, .613, .511, .293, .410, .170, .158)),
        ("Cerebras-GPT", "590M", 590_310_912, (.291, .627, .498, .366, .464, .190, .158)),
        ("Cerebras-GPT", "1.3B", 1_315_723_264, (.325, .664, .521, .462, .508, .224, .166)),
        ("Cerebras-GPT", "2.7B", 2_651_553_280, (.386, .701, .559, .567, .571, .246, .206)),
        ("Cerebras-GPT", "6.7B", 6_658_404_352, (.447, .739, .602, .636, .643, .282, .238)),
        ("Cerebras-GPT", "13B", 12_853_386_240, (.513, .766, .646, .696, .714, .367, .286)),
    )
)  # fmt: skip
"""Zero-shot results of the family (Dey et al., arXiv:2304.03208)."""


def local_tasks(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that are tasks known here, by name.

    Args:
        folder: with files such as ``piqa.jsonl.gz``, in the forms of MosaicML's llm-foundry.

    Raises:
        InputError: if there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of tasks: {folder}")
    found = {
        name: path
        for name in (*WORDS, *QUESTIONS, *SENTENCES)
        for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz")
        if path.is_file()
    }
    if not found:
        raise InputError(f"{folder} has no file such as piqa.jsonl or arc_easy.jsonl.gz")
    return found


def task_config(name: str, path: Path) -> dict[str, Any]:
    """Return a task as lm-evaluation-harness takes it, zero-shot, with rows from a file.

    Args:
        name: of the task.
        path: its file.

    Raises:
        InputError: if a row of the file is of another form.
    """
    rows = list(_read(name, path))
    common = {
        "task": name,
        "dataset_path": "json",
        "test_split": "test",
        "custom_dataset": lambda **named: _dataset(rows),
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    if name in WORDS:
        kind: dict[str, Any] = {
            "output_type": "loglikelihood",
            "doc_to_text": _of("context"),
            "doc_to_target": _of("continuation"),
            "metric_list": [{"metric": "acc"}],
        }
    elif name in SENTENCES:
        # One continuation after each of several contexts.
        kind = {
            "output_type": "multiple_choice",
            "doc_to_text": _of("gold"),
            "doc_to_choice": _of("context_options"),
            "doc_to_target": _of("continuation"),
            "metric_list": [{"metric": "acc"}],
        }
    else:
        kind = {
            "output_type": "multiple_choice",
            "doc_to_text": _question,
            "doc_to_choice": _of("choices"),
            "doc_to_target": _of("gold"),
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
    return {**common, **kind}


def _of(key: str) -> Callable[[Doc], Any]:
    return lambda doc: doc[key]


def _question(doc: Doc) -> str:
    text = str(doc["query"])
    asks = text.startswith("Question:") and MARK not in text
    return f"{text}\n{MARK}" if asks else text


def _read(name: str, path: Path) -> list[dict[str, Any]]:
    keys = {"lambada_openai": {"context", "continuation"}}.get(name, {"query", "choices", "gold"})
    if name in SENTENCES:
        keys = {"context_options", "continuation", "gold"}
    rows = []
    for line, row in json_rows(path, "strict"):
        if missing := keys - row.keys():
            raise InputError(f"{path}, line {line}: no '{min(missing)}' (of the task {name})")
        rows.append({key: row[key] for key in keys})
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def _dataset(rows: list[dict[str, Any]]) -> Any:
    import datasets

    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
