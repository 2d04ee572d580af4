"""The public functions that train: from a recipe or a run to a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wafergpt.api.given import Overrides, Rows, overrides_of, root_of, rows_file, words_of
from wafergpt.config import Recipe, recipe_with
from wafergpt.errors import InputError, require_numbers
from wafergpt.logs import each_kind_once, place
from wafergpt.runs.run import RUNS, AnyRun, Run

if TYPE_CHECKING:
    from wafergpt.inference.predictor import Predictor
    from wafergpt.tuning.samplers import Pruner, Sampler


def pretrain(
    recipe: Recipe | str | Path | None = None,
    overrides: Overrides = (),
    *,
    start: AnyRun | None = None,
    resume: AnyRun | None = None,
    auto_resume: bool = False,
    root: str | Path = RUNS,
) -> Run:
    """Train a language model.

    Args:
        recipe: a recipe, a YAML file, or the name of a shipped recipe.
        overrides: ``section.key=value`` strings, or values by key.
        start: a run to initialize from, trained here or imported; its shape is taken over.
        resume: a run to resume, bit for bit; only its horizon and what does not touch the weights
            may be overridden.
        auto_resume: resume the run that this recipe started under its name, or start it.
        root: the folder that holds runs.

    Returns:
        The trained run.

    Raises:
        InputError: if the recipe is impossible, the corpus missing or changed, or the run exists.
        RunFailed: if the run diverges, or has no good checkpoint to resume from.
        Interrupted: after saving, if a signal requested a stop.
    """
    began = time.monotonic()
    from wafergpt.train.resume import language_model, may_change, on_top_of
    from wafergpt.train.run import train

    root, overrides = root_of(root), overrides_of(overrides)
    if resume is not None:
        _require_alone(start=start, recipe=recipe, auto_resume=auto_resume)
        run = _to_resume(resume, root)
        return train(may_change(run, overrides), run=run, root=root, began=began)
    asked = recipe_with(recipe, overrides)
    _require_started(asked)
    base = None
    if start is not None:
        base = language_model(start, root)
        asked = on_top_of(asked, base)
    return train(asked, start=base, auto_resume=auto_resume, root=root, began=began)


def finetune(
    start: AnyRun | None = None,
    recipe: Recipe | str | Path | None = None,
    overrides: Overrides = (),
    *,
    task: str | None = None,
    data: Rows | None = None,
    resume: AnyRun | None = None,
    auto_resume: bool = False,
    refit: bool | None = None,
    root: str | Path = RUNS,
) -> Predictor:
    """Fine-tune a language model for a task, or a run of this task on more rows.

    Args:
        start: a run, or ``"scratch"``; omitted only to resume. Of a run of the same task the head
            goes on too, label by label; of another task's, the GPT alone.
        recipe: a recipe, a YAML file, or the name of a shipped recipe. If omitted, what
            ``overrides`` do not set is chosen by the rows, and said.
        overrides: ``section.key=value`` strings, or values by key.
        task: the task's name, if the recipe does not name it; ``classify`` if neither does.
        data: the labelled rows to train on, if the recipe does not name them: a file, or from
            memory a data frame or mappings, which are kept as a file in ``root/.rows``.
        resume: a fine-tuning run to resume, bit for bit.
        auto_resume: resume the run that this recipe started under its name, or start it.
        refit: train twice: without the held-out rows, as ``NAME-held-out``, whose metrics are of
            rows that it has not learned, and then on all rows. If omitted, without a recipe it is
            so for up to 1,000 rows with ``task.test`` beside them.
        root: the folder that holds runs.

    Returns:
        A predictor with the checkpoint that is best on validation data. After a refit, with the
        last one; the validation metrics of its run are those of the first training.

    Raises:
        InputError: if the recipe is impossible or the rows are unusable.
        RunFailed: if the run diverges.
        Interrupted: after saving, if a signal requested a stop.
    """
    began = time.monotonic()
    from wafergpt.inference.predictor import Predictor
    from wafergpt.train.finetuning import with_task
    from wafergpt.train.refit import is_worth_it, refitted
    from wafergpt.train.resume import may_change, start_run
    from wafergpt.train.run import train

    root, overrides = root_of(root), overrides_of(overrides)
    if resume is not None:
        _require_alone(start=start, recipe=recipe, task=task, data=data, auto_resume=auto_resume,
                       refit=refit)  # fmt: skip
        run = _to_resume(resume, root)
        if run.recipe.task is None:
            raise InputError(
                f"{run.path} is a language model: wafergpt pretrain --resume {run.path}"
            )
        recipe = may_change(run, overrides)
        return Predictor.load(train(recipe, run=run, root=root, began=began))
    if start is None:
        raise InputError("start from a run or from 'scratch', or name a run to resume")
    base, wanted = start_run(start, root), recipe_with(recipe, overrides)
    data = None if data is None else rows_file(data, root)
    # What is noted of the rows is the same in both trainings.
    with each_kind_once(differs=""):
        asked = with_task(wanted, base, task, data, chooses=recipe is None)
        if refit is None:
            refit = recipe is None and is_worth_it(asked, base, root)
        if refit:
            return Predictor.load(refitted(asked, base, root))
        _require_started(asked)
    run = train(asked, start=base, auto_resume=auto_resume, root=root, began=began)
    return Predictor.load(run)


def cross_validate(
    start: AnyRun,
    recipe: Recipe | str | Path | None = None,
    overrides: Overrides = (),
    *,
    folds: int = 5,
    refit: bool = False,
    task: str | None = None,
    data: Rows | None = None,
    root: str | Path = RUNS,
) -> Run:
    """Fine-tune once for each part of the rows, which is held out and judged; resumable.

    Args:
        start: the run to start from, or ``"scratch"``.
        recipe: a recipe, a YAML file, or the name of a shipped recipe. If omitted, what
            ``overrides`` do not set is chosen by the rows, and said.
        overrides: ``section.key=value`` strings, or values by key; ``name`` is that of the network
            of all rows.
        folds: the number of parts.
        refit: train ``name`` on all rows at the end; ``task.test`` is judged by this one alone.
        task: the task's name, if the recipe does not name it; ``classify`` if neither does.
        data: the labelled rows, if the recipe does not name them, as in ``finetune``.
        root: the folder that holds runs.

    Returns:
        The run ``NAME-folds``. Its result has in ``folds`` the metrics of each, their mean and
        standard deviation, and in ``metrics`` and ``intervals`` those over all rows.

    Raises:
        InputError: if the recipe is impossible, the rows are unusable or too few, or a name is
            taken.
        RunFailed: if a training diverges.
        Interrupted: after saving, if a signal requested a stop; the same call goes on.
    """
    from wafergpt.runs.teacher import with_teacher
    from wafergpt.train.finetuning import with_task
    from wafergpt.train.folds import CrossValidation
    from wafergpt.train.resume import start_run

    root, overrides = root_of(root), overrides_of(overrides)
    named = [] if task is None else [f"task.name={task}"]
    whole = recipe_with(recipe, [*overrides, *named])
    data = None if data is None else rows_file(data, root)
    test = None if whole.task is None else whole.task.test
    base = start_run(start, root)
    asked = recipe_with(recipe, [*overrides, *named, f"task.folds={folds}", "task.test=null"])
    # What is noted of the rows is the same in each training.
    with each_kind_once(differs=""):
        asked = with_task(asked, base, task, data, chooses=recipe is None)
        # Folds are trained in a folder of their own.
        asked = with_teacher(asked, root)
        return CrossValidation(asked, base, root, refit, test).made()


def tune(
    start: AnyRun | None = None,
    recipe: Recipe | str | Path | None = None,
    overrides: Overrides = (),
    *,
    budget: str | float | None = None,
    trials: int | None = None,
    task: str | None = None,
    data: Rows | None = None,
    metric: str | None = None,
    also: str | Sequence[str] = (),
    sampler: Sampler = "tpe",
    pruner: Pruner = "asha",
    workers: int = 1,
    width: int | None = None,
    steps: int | None = None,
    storage: str = "",
    ray: str = "",
    keep: bool = False,
    root: str | Path = RUNS,
) -> Run:
    """Try settings of a training, and keep the best; the same call, made again, goes on.

    Each trial is a run in the folder of the study, ``NAME-tune``; the first one is the default.
    The best becomes the run ``NAME``, and is judged by ``task.test``, beside the default.

    Args:
        start: the run to fine-tune, or ``"scratch"``; with ``data.corpus`` the language model to
            pretrain further; None for a pretraining from fresh weights.
        recipe: a recipe, a YAML file, or the name of a shipped recipe; its section ``tune`` has
            spaces by key. If omitted, a fine-tuning's settings are chosen by the rows.
        overrides: ``section.key=value`` strings, or values by key; a number, flag or choice may
            have a space in its place: ``low..high``, ``low..high:log`` or ``a,b,c``. Without any,
            default ones.
        budget: of all trials: time such as ``"30m"``, seconds, or ``"1e15 FLOPs"``.
        trials: their number, the default among them.
        task: the task's name, if the recipe does not name it.
        data: the labelled rows to train on, if the recipe does not name them, as in ``finetune``.
        metric: the objective; ``evaluate.metric`` if omitted.
        also: further objectives, ``latency`` and ``size``; then no trial stops early.
        sampler: of Optuna, which chooses the settings.
        pruner: of Optuna, which stops hopeless trials at an evaluation.
        workers: trials at a time, each in a process of its own, or ``system.nproc`` of them.
        width: under µP, d_model of a proxy that is trained instead; the wide recipe is written.
        steps: updates of the proxy; if omitted, 20 tokens per parameter.
        storage: address of a database that keeps the trials; a file in the folder if "".
        ray: address of a Ray cluster whose nodes make the trials: ``"HOST:PORT"``, ``"auto"`` for
            the one of this machine, or ``"local"``.
        keep: keep the weights of all trials, not of the best and the default alone.
        root: the folder that holds runs.

    Returns:
        The run of the study. Its result has ``best``, ``value``, ``default_value``, ``trials``,
        ``recipe``, ``importances``, and if there are test rows ``test``, ``default_test`` and
        ``difference``.

    Raises:
        InputError: if a space or the recipe is impossible, the folder is of another study, or
            Optuna is missing.
        RunFailed: if no trial could be trained.
        Interrupted: by a signal, after saving.
    """
    from wafergpt.tuning.tune import tuned

    start = getattr(start, "run", start)
    if isinstance(start, Run):
        start = start.checkpoint or start.path
    require_numbers(trials=trials, workers=workers, width=width, steps=steps)
    root, changes = root_of(root), overrides_of(overrides)
    changes += [] if task is None else [f"task.name={task}"]
    changes += [] if data is None else [f"task.train={rows_file(data, root)}"]
    return tuned(
        recipe,
        changes,
        None if start is None else str(start),
        root,
        budget=budget,
        trials=trials,
        metric=metric,
        also=words_of(also, "also"),
        sampler=sampler,
        pruner=pruner,
        workers=workers,
        width=width,
        steps=steps,
        storage=storage,
        ray=ray,
        keep=keep,
    )


# --- shared ---------------------------------------------------------------------------------------


def _require_alone(**given: object) -> None:
    """Require that nothing is asked for that a resume would leave out.

    Raises:
        InputError: naming the first of what is.
    """
    for name, value in given.items():
        if not (value is None or value is False or (isinstance(value, str) and not value)):
            raise InputError(f"a resumed training stays what it is: omit {name}")


def _require_started(recipe: Recipe) -> None:
    """Require that a training of several processes is one of them.

    Raises:
        InputError: if this is the only one.
    """
    if recipe.system.nproc > 1 and place()[1] == 1:
        raise InputError(
            f"system.nproc={recipe.system.nproc}: several processes are started by wafergpt's "
            "command line (--nproc) or by torchrun, not from Python"
        )


def _to_resume(run: AnyRun, root: Path) -> Run:
    from wafergpt.checkpoint.imported_run import require_trained

    found = Run.find(run, root)
    require_trained(found)
    return found
