"""EleutherAI's lm-evaluation-harness on a run, beside published models."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wafergpt.errors import InputError, nearest
from wafergpt.inference.writer import Writer
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.runs.run import Run
from wafergpt.suites.harness_published import PUBLISHED
from wafergpt.suites.harness_tasks import local_tasks, task_config


def harness(
    run: Run,
    tasks: Sequence[str] = (),
    folder: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a language model zero-shot on tasks of lm-evaluation-harness.

    Args:
        run: a language model.
        tasks: names; those that are not in ``folder`` are the harness's own, which fetches them.
            All that are in ``folder`` if omitted.
        folder: of files of tasks (see ``local_tasks``).
        limit: rows of each task, the first ones; all if omitted.
        device: to compute on.
        seed: of what a task draws.

    Returns:
        ``tasks``, by name: every metric of it, ``score``, that of the published table, its
        ``stderr`` and the number of ``rows``; ``average`` of the scores, groups of tasks left out;
        ``cut``, the texts that were longer than the context; what is ``published`` of models; and
        ``seconds``.

    Raises:
        InputError: if the run has a task, lm-eval is missing, or a task cannot be read.
    """
    found = {} if folder is None else local_tasks(folder)
    names = list(dict.fromkeys(tasks)) or list(found)
    if not names:
        raise InputError("tasks are wanted: name them, or a folder of files of tasks")
    with working("loading lm-eval"), _quiet():
        try:
            from lm_eval.evaluator import evaluate
            from lm_eval.tasks import TaskManager
        except ImportError:
            raise InputError(
                "tasks are read by lm-evaluation-harness: pip install 'wafergpt[eval]'"
            ) from None

        from wafergpt.suites.harness_model import HarnessModel

        own = [name for name in names if name not in found]
        manager = TaskManager(include_defaults=bool(own))
    _require_known(own, manager)
    model = HarnessModel(Writer.load(run, device))
    started = time.monotonic()
    asked: list[Any] = [task_config(n, found[n]) if n in found else n for n in names]
    with _quiet():
        try:
            loaded = manager.load(asked)
            for task in loaded["tasks"].values():
                task.set_fewshot_seed(seed)
            result = evaluate(model, loaded, limit, bootstrap_iters=0, log_samples=False)
        except OSError as error:
            raise InputError(
                f"a task of the harness cannot be fetched ({str(error).splitlines()[0]}): "
                "--tasks-folder names files"
            ) from None
    assert result is not None
    scored = {name: _scores(name, result) for name in result["results"]}
    if folder is not None and "hellaswag" not in scored:
        say("HellaSwag is not among the tasks: the average is not that of the published table")
    # A group has no rows of its own: its tasks are there too.
    known = [one["score"] for one in scored.values() if one["score"] is not None and one["rows"]]
    return {
        "tasks": scored,
        "average": sum(known) / len(known) if known else None,
        "cut": model.cut,
        "limit": limit,
        "published": list(PUBLISHED),
        "seconds": time.monotonic() - started,
    }


def _require_known(names: Sequence[str], manager: Any) -> None:
    """Require that tasks which are not in a folder are the harness's own."""
    for name in names:
        if name not in manager.all_tasks:
            raise InputError(f"no task '{name}'{nearest(name, manager.all_tasks)}")


def _scores(name: str, result: Any) -> dict[str, Any]:
    """Return the metrics of one task, with the names of their filters where there are several."""
    found = {
        tuple(key.split(",", 1)): value
        for key, value in result["results"][name].items()
        if isinstance(value, float) and "," in key
    }
    counts = Counter(metric for metric, _ in found)
    values = {
        metric if counts[metric] == 1 or way == "none" else f"{metric},{way}": value
        for (metric, way), value in found.items()
    }
    score, rows = values.get("acc"), result.get("n-samples", {}).get(name, {}).get("effective")
    # Of shares, as the harness computes it; its other ones are resampled in processes.
    error = None
    if score is not None and rows is not None and rows > 1:
        error = math.sqrt(score * (1 - score) / (rows - 1))
    return {**values, "score": score, "stderr": error, "rows": rows}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's own messages and bars off the screen."""
    from tqdm.std import tqdm

    shown: Any = tqdm.__init__

    def hidden(self: Any, *given: Any, **named: Any) -> None:
        shown(self, *given, **{**named, "disable": True})

    # The hub's library announces each of its retries.
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels, tqdm.__init__ = [logger.level for logger in loggers], hidden
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tqdm.__init__ = shown
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
