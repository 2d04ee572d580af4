"""The next commands to run, ready to paste."""

from __future__ import annotations

from pathlib import Path

from wafergpt.cli.streams import shows
from wafergpt.config import Recipe
from wafergpt.errors import InputError, RunFailed
from wafergpt.runs.run import PROMPT, Run, command_line

LOOKED_AT = 64
"""Tokens of a corpus' validation text that a prompt is taken from."""

LONGEST, LONGEST_WORD = 24, 12
"""Characters of a prompt; a longer first word means a text without spaces."""

UNSPACED = 6
"""Characters of a prompt in such a text."""


def at_work(run: Run) -> str:
    """Return the command that uses a run: on a text, or on a prompt from its corpus."""
    recipe = run.recipe
    return run.usage(PROMPT if recipe.task else _prompt(recipe))


def after_preparing(corpus: Path, tokens: int) -> str:
    """Return the command that plans a model for a corpus, or trains on a very small one."""
    recipe = Recipe()
    length, batch = recipe.model.seq_len, recipe.train.batch_size
    if tokens > length * batch:
        return command_line("plan", f"data.corpus={corpus}", "--budget", "10m")
    words = [f"data.corpus={corpus}", "train.steps=500"]
    if tokens <= length:
        length = max(1, (tokens - 1) // 2)
        words.append(f"model.seq_len={length}")
    sequences = max(1, (tokens - 1) // length)
    if sequences < batch:
        words.append(f"train.batch_size={sequences}")
    return command_line("pretrain", *words)


def _prompt(recipe: Recipe) -> str:
    from wafergpt.data.corpus import Corpus

    if recipe.data.corpus is None:
        return PROMPT
    try:
        corpus = Corpus.open(recipe.data.corpus)
        stream = corpus.tokens("val")
        ids = [int(token) for token in stream.take(0, min(LOOKED_AT, len(stream)))]
        end = corpus.tokenizer.end_of_text
        prompt = opening(corpus.tokenizer.decode([token for token in ids if token != end]))
        return prompt if shows(prompt) else PROMPT
    except (InputError, RunFailed, OSError):
        # The corpus may have been removed: it is no longer needed.
        return PROMPT


def opening(text: str) -> str:
    """Return the first words of a text in one line, or its first letters if it has no spaces."""
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    printable = "".join(c if c.isprintable() else " " for c in text)
    # Quotes within quotes are hard to read in a shell.
    words = [word for word in printable.split() if not set(word) & set("\"'`\\")]
    if not words:
        return PROMPT
    if len(words[0]) > LONGEST_WORD:
        return words[0][:UNSPACED]
    shown = words[0]
    for word in words[1:3]:
        if len(shown) + 1 + len(word) <= LONGEST:
            shown += f" {word}"
    return shown
