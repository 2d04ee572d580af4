"""What lies beside an exported graph: how inputs are prepared, and lines of Python that do it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from wafergpt import data
from wafergpt.config import Recipe
from wafergpt.data.tokenizer_files import SPELLING
from wafergpt.interop.onnx_graph import OnnxWeights, input_axes
from wafergpt.runs.run import Run
from wafergpt.shapes import hashing
from wafergpt.tasks.graph import Graph

_HASH = f"from {hashing.__name__} import FACTOR, PRIME\n"

_MEANINGS = {
    "input_ids": "the tokens of each text, padded on the right with any token",
    "attention_mask": "1 for tokens, 0 for padding",
    "ngrams": "rows of the n-grams of each whole text, padded with 0; `text_ngrams.py` finds them",
    "words": "the first token of each word of a sentence and the one after its last; 0 for padding",
    "features": "rows of the features of each word, 0 for padding; `word_features.py` finds them",
}


def settings(run: Run, graph: Graph, weights: OnnxWeights, end_of_text: int) -> dict[str, Any]:
    """Return what a program must know to run the graph, as JSON.

    Args:
        run: that is exported.
        graph: of its task.
        weights: of the file.
        end_of_text: the token that ends a text, and is all of an empty one.
    """
    recipe = run.recipe
    return {
        "run": run.name,
        "task": "language_model" if recipe.task is None else recipe.task.name,
        "weights": weights,
        "vocab_size": recipe.model.vocab_size,
        "end_of_text": end_of_text,
        **graph.settings,
        "inputs": {name: list(axes) for name, axes in input_axes(graph).items()},
        "outputs": list(graph.outputs),
    }


def module(name: str) -> str:
    """Return the source of a module of ``wafergpt.data`` that imports others from beside it.

    Args:
        name: of a module that needs NumPy alone.
    """
    source = inspect.getsource(importlib.import_module(f"{data.__name__}.{name}"))
    found = source.replace(_HASH, f"PRIME, FACTOR = {hashing.PRIME}, {hashing.FACTOR}\n")
    found = found.replace(f"from {data.__name__}.", "from ")
    assert "wafergpt" not in found
    return found


def readme(run: Run, graph: Graph, weights: OnnxWeights) -> str:
    """Return the README.md of an exported folder."""
    recipe = run.recipe
    kind = "a language model" if recipe.task is None else f"a model for task `{recipe.task.name}`"
    axes = input_axes(graph)
    inputs = [
        f"| `{name}` | `[{', '.join(of)}]`, {_MEANINGS.get(name, 'as the task describes')} |"
        for name, of in axes.items()
    ]
    outputs = [f"| `{name}` | {meaning} |" for name, meaning in graph.outputs.items()]
    steps = "\n".join(f"- {step}" for step in _steps(recipe, graph))
    return f"""# {run.name}

`model.onnx` is {kind}, with weights in {weights}. It was trained with wafergpt.

| input (int64) | |
|---|---|
{chr(10).join(inputs)}

| output (float32) | |
|---|---|
{chr(10).join(outputs)}

{steps}

These lines need `pip install onnxruntime tokenizers`, and run in this folder:

```python
{_lines(recipe, graph)}
```
"""


def _steps(recipe: Recipe, graph: Graph) -> list[str]:
    limit = graph.settings["max_tokens"]
    steps = [
        "`tokenizer.json` contains all that is done to a text, such as lower-casing. Nothing is "
        "added before or after it, and special tokens written in it are read as text.",
        f"At most {recipe.model.seq_len:,} tokens fit.",
    ]
    if "cut" in graph.settings:
        where = {"end": "first", "start": "last", "middle": "first and last"}
        steps[-1] = (
            f"Of a longer text the {where[graph.settings['cut']]} {limit:,} tokens are read; an "
            "empty text is the token that ends a text (`end_of_text`)."
        )
    if "columns" in graph.settings:
        steps[-1] += (
            f" A text is the columns {', '.join(graph.settings['columns'])} with a line break "
            "between them; what is too long is cut from the longest column."
        )
    if graph.settings.get("spelling"):
        steps.append(
            "Words that hardly any training text has are read as near ones that many have, letters "
            "of other scripts that look Latin as Latin ones, and several spaces as one, by "
            f"`spelling.py` and the words in `{SPELLING}`."
        )
    return [*steps, "`settings.json` contains the numbers and names for programs."]


def _lines(recipe: Recipe, graph: Graph) -> str:
    read_words = f'spelling = Spelling(json.load(open("{SPELLING}", encoding="utf-8")))'
    head = [
        "import json",
        "",
        "import numpy as np",
        "import onnxruntime",
        "from tokenizers import Tokenizer",
        *(f"from {name} import {what}" for name, what in graph.modules.items() if what),
        "",
        'settings = json.load(open("settings.json", encoding="utf-8"))',
        'tokenizer = Tokenizer.from_file("tokenizer.json")',
        "tokenizer.encode_special_tokens = True",
        'session = onnxruntime.InferenceSession("model.onnx")',
        *([read_words] if graph.settings.get("spelling") else []),
        "",
    ]
    body = []
    if "lengths" not in graph.inputs:
        body = _continuation()
    elif "cut" in graph.settings:
        body = _answers(graph)
    return "\n".join([*head, *body, graph.answer])


def _continuation() -> list[str]:
    return [
        'ids = tokenizer.encode("This is", add_special_tokens=False).ids',
        "for _ in range(20):",
        '    inputs = {"input_ids": np.array([ids[-settings["max_tokens"] :]])}',
        '    (logits,) = session.run(["logits"], inputs)',
        "    ids.append(int(logits[0, -1].argmax()))",
    ]


def _several_columns(graph: Graph, ngrams: bool) -> list[str]:
    """Return lines that make inputs of texts of several columns."""
    texts = ["Was it good?", "A warm and funny film.", "It was dull."]
    made = [texts[place % len(texts)] for place in range(len(graph.settings["columns"]))]
    cut = {
        "end": "ids[:left]",
        "start": "ids[len(ids) - left :]",
        "middle": "ids[: left // 2] + ids[len(ids) - (left - left // 2) :]",
    }[graph.settings["cut"]]
    rows = 'text_ngrams(text, settings["ngrams"], settings["ngram_rows"])'
    spelled = graph.settings.get("spelling")
    return [
        *_PADDED,
        "def encoded(parts):",
        "    rows = [tokenizer.encode(part, add_special_tokens=False).ids for part in parts]",
        '    between = tokenizer.encode("\\n", add_special_tokens=False).ids',
        "    between = between or [settings['end_of_text']]",
        "    sizes = [len(ids) for ids in rows]",
        "    while sum(sizes) > settings['max_tokens'] - (len(rows) - 1) * len(between):",
        "        sizes[max(range(len(rows)), key=lambda i: (sizes[i], -len(rows[i]), -i))] -= 1",
        f"    rows = [{cut} for ids, left in zip(rows, sizes)]",
        "    return rows[0] + [token for ids in rows[1:] for token in between + ids]",
        "",
        "",
        f"columns = [{made!r}]",
        *(
            ["columns = [[spelling(part) for part in parts] for parts in columns]"]
            if spelled
            else []
        ),
        "tokens = [encoded(parts) for parts in columns]",
        'texts = ["\\n".join(parts) for parts in columns]',
        *_inputs(graph, [f'    "ngrams": padded([{rows} for text in texts]),'] if ngrams else []),
    ]


_PADDED = [
    "",
    "def padded(rows):",
    "    filled = np.zeros((len(rows), max(1, *map(len, rows))), dtype=np.int64)",
    "    for place, row in zip(filled, rows):",
    "        place[: len(row)] = row",
    "    return filled",
    "",
    "",
]


def _inputs(graph: Graph, ngrams: list[str]) -> list[str]:
    """Return lines that run the graph on ``tokens``."""
    return [
        "inputs = {",
        '    "input_ids": padded(tokens),',
        '    "attention_mask": padded([[1] * len(row) for row in tokens]),',
        *ngrams,
        "}",
        f"{', '.join(graph.outputs)}{',' if len(graph.outputs) == 1 else ''} = "
        "session.run(None, inputs)",
    ]


def _answers(graph: Graph) -> list[str]:
    ngrams = "ngrams" in graph.inputs
    if "columns" in graph.settings:
        return _several_columns(graph, ngrams)
    limit = graph.settings["max_tokens"]
    ids = "tokenizer.encode(text, add_special_tokens=False).ids"
    head = limit // 2
    cut = {
        "end": f"{ids}[:{limit}]",
        "start": f"{ids}[-{limit}:]",
        "middle": f"middle({ids})",
    }[graph.settings["cut"]]
    middle = [
        "def middle(ids):",
        f"    return ids if len(ids) <= {limit} else ids[:{head}] + ids[-{limit - head}:]",
        "",
        "",
    ]
    rows = 'text_ngrams(text, settings["ngrams"], settings["ngram_rows"])'
    spelled = graph.settings.get("spelling")
    return [
        *(["", *middle[:-1]] if graph.settings["cut"] == "middle" else []),
        *_PADDED,
        'texts = ["A warm and funny film.", "It was dull."]',
        *(["texts = [*map(spelling, texts)]"] if spelled else []),
        f"ids = [{cut} for text in texts]",
        "tokens = [row or [settings['end_of_text']] for row in ids]",
        *_inputs(graph, [f'    "ngrams": padded([{rows} for text in texts]),'] if ngrams else []),
    ]


def write_beside(folder: Path, run: Run, graph: Graph, weights: OnnxWeights) -> None:
    """Write README.md, and the modules that prepare inputs and read outputs."""
    (folder / "README.md").write_text(readme(run, graph, weights), encoding="utf-8")
    for name in graph.modules:
        (folder / f"{name}.py").write_text(module(name), encoding="utf-8")
