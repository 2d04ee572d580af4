"""The command that uses a run, ready to paste."""

from __future__ import annotations

import json

from wafergpt.runs.run import Run

NEUTRAL = "The"
"""The prompt if no text is available."""


def command_of_use(run: Run, prompt: str = NEUTRAL) -> str:
    """Return the command that uses a run: on a text, on a file, or on a prompt.

    Args:
        run: of a language model or a task.
        prompt: for a language model.

    Returns:
        One line of shell.
    """
    task = run.recipe.task
    if task is None:
        return run.command("generate", "--prompt", prompt)
    if task.name == "dialogue":
        return run.command("chat")
    if task.name == "answer":
        return run.command("predict", "--file", str(task.test or task.train))
    if task.name == "embed":
        return run.command("search", "TEXTS.csv", "a question of yours")
    if task.name == "rank":
        return run.command("predict", "--file", "CANDIDATES.csv")
    if isinstance(columns := getattr(task, "text", None), tuple):
        return run.command("predict", "--text", json.dumps(dict.fromkeys(columns, "a text")))
    return run.command("predict", "--text", "a text of yours")
