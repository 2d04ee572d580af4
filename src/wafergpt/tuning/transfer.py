"""Tune small, train large: under µP, the settings of a narrow proxy hold at any width.

µTransfer (Yang et al., arXiv:2203.03466). Cerebras-GPT tuned a model of width 256 and used its
settings up to 2.7B parameters (arXiv:2304.03208, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafergpt import atomic_files
from wafergpt.config import Recipe
from wafergpt.config.files import flat
from wafergpt.config.warmup import warmup_steps
from wafergpt.errors import Diverged, InputError, Interrupted, RunFailed, nearest
from wafergpt.planning.plan import TOKENS_PER_PARAMETER
from wafergpt.progress import say
from wafergpt.runs.run import RUNS, Run
from wafergpt.shapes.counts import dense_parameters
from wafergpt.shapes.parametrization import require_whole_heads
from wafergpt.tasks.language_model import corpus_of, for_corpus
from wafergpt.train.run import train

if TYPE_CHECKING:
    import optuna

SETTINGS: Mapping[str, tuple[str, str]] = {
    "lr": ("optimizer", "lr"),
    "init_std": ("model", "init_std"),
    "embedding_scale": ("model", "embedding_scale"),
    "output_scale": ("model", "output_scale"),
}
"""Settings that µP transfers from a narrow network to a wide one, and their recipe keys."""

OCTAVES = 4
"""A setting is searched from 2⁻⁴ to 2⁴ times the recipe's value."""

SHARES = 10_000
"""Steps of a hypothetical run, to turn a warm-up in percent into a share of it."""

WARMING_TRIALS = 4
"""Random trials before the sampler uses earlier results."""


@dataclass(frozen=True)
class Transfer:
    """The result of tuning a proxy.

    Attributes:
        best: the settings of the best trial.
        value: its validation loss.
        trials: the number of finished trials.
        recipe: the target's recipe with these settings.
        folder: the trials, each an ordinary run.
    """

    best: dict[str, float]
    value: float
    trials: int
    recipe: Recipe
    folder: Path


def proxy_of(target: Recipe, width: int, steps: int | None = None) -> Recipe:
    """Return the recipe of the proxy: the target's in all but width and horizon.

    Heads keep their width where that divides; otherwise their number. A warm-up in steps or tokens
    becomes its share of the target's run, and every batch is the target's last.

    Args:
        target: a recipe under µP.
        width: d_model of the proxy.
        steps: the number of its updates; if omitted, 20 tokens per parameter.

    Raises:
        InputError: if the target is not under µP, the width is not possible, or its warm-up is not
            a known share because its horizon is not known.
    """
    model = target.model
    require_whole_heads(model)
    if model.parametrization != "mup":
        raise InputError(
            "settings transfer only under µP: add model.parametrization=mup, or name a µP recipe"
        )
    if width >= model.d_model:
        raise InputError(f"a proxy of width {width} is no narrower than d_model={model.d_model}")
    d_head = model.head_width
    heads = width // d_head if width % d_head == 0 else model.n_heads
    if width % heads:
        near = max(1, round(width / heads)) * heads
        raise InputError(f"{heads} heads do not divide a proxy of width {width}: try {near}")
    shape = {"d_model": width, "n_heads": heads, "d_ffn": width * model.d_ffn // model.d_model}
    train = {"steps": steps, "tokens": None, "epochs": None, "seconds": None}
    train |= {"first_steps": 0, "first_batch_size": 0}
    warmup = f"{100 * _warmup_share(target):.4g}%"
    return target.replace(
        name=f"{target.name}-proxy", model=shape, train=train, schedule={"warmup": warmup}
    )


def _warmup_share(target: Recipe) -> float:
    train, seq_len = target.train, target.model.seq_len
    batch_tokens = train.batch_size * seq_len
    if train.steps:
        tokens = train.samples(train.steps) * seq_len
    elif train.tokens:
        tokens = train.tokens
    elif not (train.epochs or train.seconds) and target.model.vocab_size:
        tokens = round(TOKENS_PER_PARAMETER * dense_parameters(target.model))
    else:
        tokens = 0
    steps = tokens // batch_tokens or SHARES
    warmup = warmup_steps(target.schedule.warmup, steps, batch_tokens)
    relative = isinstance(target.schedule.warmup, str) and "%" in target.schedule.warmup
    if warmup and not tokens and not relative:
        raise InputError(
            "the proxy trains for a different time than the target: set schedule.warmup as a share,"
            " such as schedule.warmup=10%"
        )
    return warmup / steps


def transfer(
    target: Recipe,
    width: int,
    *,
    trials: int = 12,
    steps: int | None = None,
    settings: Sequence[str] = ("lr",),
    root: Path = RUNS,
) -> Transfer:
    """Tune a proxy of the target, and return the target's recipe with the best settings.

    The trials are runs below ``root/NAME-transfer``; another call resumes the study.

    Args:
        target: the recipe to train, under µP.
        width: d_model of the proxy.
        trials: the number of proxies to train, including those of earlier calls.
        steps: the number of updates of each; if omitted, 20 tokens per parameter of the proxy.
        settings: names from ``SETTINGS``.
        root: the folder that holds runs.

    Raises:
        InputError: if the target is not under µP, a setting is unknown, or Optuna is missing.
        RunFailed: if every trial diverged.
        Interrupted: by a signal; call again to resume.
    """
    for name in settings:
        if name not in SETTINGS:
            raise InputError(f"no setting '{name}' to tune{nearest(name, SETTINGS)}")
    proxy = proxy_of(target, width, steps)
    proxy = for_corpus(proxy, corpus_of(proxy))
    folder = root / f"{target.name}-transfer"
    study = _study(folder, proxy, settings)
    try:
        for trial in study.get_trials(deepcopy=False, states=(_state("RUNNING"),)):
            _resume(study, trial, folder)
        while len(_finished(study)) < trials:
            _try(study, proxy, settings, folder)
    except Interrupted as stop:
        raise Interrupted(f"{stop} of a trial; run the same command to resume") from None
    best = min((t for t in _finished(study) if math.isfinite(_value(t))), key=_value, default=None)
    if best is None:
        raise RunFailed("every trial diverged: start from a lower optimizer.lr")
    recipe = target.replace(**_sections(best.params))
    return Transfer(dict(best.params), _value(best), len(_finished(study)), recipe, folder)


def _study(folder: Path, proxy: Recipe, settings: Sequence[str]) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise InputError("tuning needs Optuna: pip install 'wafergpt[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "study.jsonl"
    _cut_torn_record(journal)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="transfer",
            load_if_exists=True,
        )
        before = {**study.user_attrs.get("asked", {})}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{journal} is damaged: {reason}") from None
    asked = {**flat(proxy.model_dump(mode="json")), "settings": sorted(settings)}
    if _finished(study) and before != asked:
        keys = asked.keys() | before.keys()
        differ = sorted(key for key in keys if asked.get(key) != before.get(key))
        raise InputError(
            f"{folder} is a study of another proxy ({', '.join(differ[:3])} differ): "
            "remove it, or choose another name=NAME"
        )
    study.set_user_attr("asked", asked)
    # Each call makes a new sampler; the number of earlier trials changes its seed.
    seed = proxy.seed + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=WARMING_TRIALS)
    return study


def _cut_torn_record(journal: Path) -> None:
    """Cut a journal back to its last complete line: a partial one would make it unreadable."""
    if journal.is_file():
        data = journal.read_bytes()
        if data and not data.endswith(b"\n"):
            atomic_files.write_bytes(journal, data[: data.rfind(b"\n") + 1])


def _state(name: str) -> optuna.trial.TrialState:
    import optuna

    return optuna.trial.TrialState[name]


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(_state("COMPLETE"),))


def _value(trial: optuna.trial.FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value


def _try(study: optuna.Study, proxy: Recipe, settings: Sequence[str], folder: Path) -> None:
    trial = study.ask()
    for name in settings:
        section, key = SETTINGS[name]
        start = getattr(getattr(proxy, section), key)
        trial.suggest_float(name, start / 2**OCTAVES, start * 2**OCTAVES, log=True)
    found = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
    say(f"trial {trial.number}: {found}")
    recipe = proxy.replace(name=_run_name(trial.number), **_sections(trial.params))
    _record(study, trial.number, lambda: train(recipe, root=folder))


def _resume(study: optuna.Study, trial: optuna.trial.FrozenTrial, folder: Path) -> None:
    """Finish a trial that was interrupted; discard one that has not started."""
    run = Run(folder / _run_name(trial.number))
    if (run.checkpoints / "latest").is_file():
        _record(study, trial.number, lambda: train(run.recipe, run=run, root=folder))
    else:
        study.tell(trial.number, state=_state("FAIL"))


def _run_name(number: int) -> str:
    return f"trial-{number:03}"


def _record(study: optuna.Study, number: int, train: Callable[[], Run]) -> None:
    try:
        loss = float(train().read("result")["val_loss"])
    except Diverged as failure:
        say(f"trial {number}: {failure}")
        loss = math.inf
    study.tell(number, loss)
    say(f"trial {number}: validation loss {loss:.4f}")


def _sections(params: Mapping[str, float]) -> dict[str, Any]:
    """Sort settings into the sections of a recipe."""
    sections: dict[str, Any] = {}
    for name, value in params.items():
        section, key = SETTINGS[name]
        # A sweep is not precise beyond three digits.
        sections.setdefault(section, {})[key] = float(f"{value:.3g}")
    return sections
