"""Tasks of lm-evaluation-harness from local files."""

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


def local_tasks(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that are tasks known here, by name.

    Args:
        folder: with files such as ``piqa.jsonl.gz``, in the forms of MosaicML's llm-foundry.

    Returns:
        Their paths by the name of the task, in an order of their own.

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

    Returns:
        The configuration; its prompts are those of the harness's own task, where it has it.

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
    if "Question:" not in text or text.rstrip().endswith(MARK):
        return text
    return text.removesuffix("\n") + f"\n{MARK}"


def _read(name: str, path: Path) -> list[dict[str, Any]]:
    keys = {"query", "choices", "gold"}
    if name in WORDS:
        keys = {"context", "continuation"}
    if name in SENTENCES:
        keys = {"context_options", "continuation", "gold"}
    rows = []
    for line, row in json_rows(path, "strict"):
        if missing := keys - row.keys():
            raise InputError(f"{path}, line {line}: no '{min(missing)}' (of the task {name})")
        kept = {key: row[key] for key in sorted(keys)}
        for key, value in kept.items():
            if wrong := _wrong(key, value, kept):
                raise InputError(f"{path}, line {line}: '{key}' is {wrong}")
        rows.append(kept)
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def _wrong(key: str, value: Any, row: Doc) -> str:
    """Return what is wrong with a value of a row; "" if it is sound."""
    if key == "gold":
        options = row.get("choices", row.get("context_options"))
        count = len(options) if isinstance(options, list) else 0
        sound = type(value) is int and 0 <= value < count
        return "" if sound else f"no number from 0 to {count - 1}, of one of the choices"
    if key in ("choices", "context_options"):
        sound = isinstance(value, list) and len(value) > 1
        sound = sound and all(isinstance(text, str) and text for text in value)
        return "" if sound else "no list of two or more texts"
    # lm-eval reads an empty context as the end of a text.
    return "" if isinstance(value, str) and (value or key == "context") else "no text"


def _dataset(rows: list[dict[str, Any]]) -> Any:
    import datasets

    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
