"""What tuning gains, what its samplers are worth, and what kills cost it.

``sets``: tuned against default on whole sets, within a budget. ``table``: a grid of 216 short
trials, on which TPE, random search and ASHA are then replayed, for a sampler's worth is not seen in
ten trials. ``kills``: a study that is killed again and again. What was measured is not measured
again.

    python -m benchmarks.tune sets --sets banking77 --budget 30m --seeds 0 1 2
    python -m benchmarks.tune table
    python -m benchmarks.tune kills --kills 100
"""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks import labelled_sets
from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import SETS, Pairs, start_of, thinned
from benchmarks.rivals import write
from wafergpt import api
from wafergpt.runs.run import Run
from wafergpt.tuning.samplers import REDUCTION, RUNGS

CUT = {"imdb": 5000}
"""Training rows of a set that is too large for trials of minutes."""

SHORT = [
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.seq_len=64",
    "model.vocab_size=1000", "task.held_out=0.5", "train.steps=90", "evaluate.every=10",
    "system.compile=off", "system.threads=1", "name=table",
]  # fmt: skip
GRID = {
    "optimizer.lr": "1e-4,3e-4,1e-3,2e-3,4e-3,8e-3,1.6e-2,3.2e-2",
    "optimizer.task_ngram_lr": "1,4,16",
    "model.dropout": "0.0,0.1,0.3",
    "train.batch_size": "8,16,32",
}
REPLAYS, FULL = 20, 60
"""Seeds of each sampler, and trials that ASHA has to find the best of."""

Table = Mapping[tuple[str, ...], Sequence[float]]
"""Validation losses at each ninth of a trial, by its settings."""


def of_set(name: str, seed: int, budget: str, out: Path) -> Cell:
    """Tune ``base`` on one set, or from scratch where it is Chinese; return both test metrics."""
    train, test = SETS[name]()
    train = thinned(train, CUT.get(name, len(train)))
    files = [f"task.{part}={write(out / f'{name}-{part}.jsonl', rows)}"
             for part, rows in (("train", train), ("test", test))]  # fmt: skip
    asked = [*files, f"seed={seed}", f"name={name}-{seed}"]
    result = api.tune(start_of(name), None, asked, budget=budget, root=out / "runs").read("result")
    return {
        "trials": result["trials"], "chosen": result["chosen_trial"],
        "accuracy": result["test"]["accuracy"], "loss": result["test"]["loss"],
        "default_accuracy": result["default_test"]["accuracy"],
        "default_loss": result["default_test"]["loss"], "difference": result["difference"],
    }  # fmt: skip


# --- samplers -----------------------------------------------------------------------------------


def trials_of_grid(rows: Pairs, out: Path) -> Table:
    """Train every combination of the grid; what is done is not repeated."""
    asked = [*SHORT, f"task.train={write(out / 'table.jsonl', rows)}"]
    spaces = [f"{key}={text}" for key, text in GRID.items()]
    study = api.tune(
        "scratch", None, [*asked, *spaces], sampler="grid", pruner="none", root=out / "runs"
    )
    table = {}
    for one in study.read("result")["outcomes"]:
        if one["values"] is not None and one["params"].keys() == GRID.keys():
            curve = [
                r["val_loss"] for r in Run(study.path / one["run"]).metrics() if "val_loss" in r
            ]
            table[tuple(one["params"][key] for key in GRID)] = curve
    return table


def replayed(table: Table, sampler: Callable[[int], Any], trials: int, seed: int) -> list[float]:
    """Return the best loss so far after each trial."""
    import optuna

    study = optuna.create_study(sampler=sampler(seed))
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, table[_drawn(trial)][-1])
    return list(accumulate((trial.values[0] for trial in study.trials), min))


def halved(table: Table, seed: int) -> tuple[float, float]:
    """Let ASHA stop some of so many random trials; return its share of compute and its best loss.

    The loss is relative to the best of all of them: 0 if that one was found.
    """
    import optuna

    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed), pruner=pruner)
    spent, ends = 0, []
    found = [float("inf")]
    for _ in range(FULL):
        trial = study.ask()
        curve = table[_drawn(trial)]
        ends.append(curve[-1])
        for rung, loss in enumerate(curve, 1):
            spent += 1
            trial.report(loss, rung)
            if rung < RUNGS and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])
            found.append(curve[-1])
    return spent / (FULL * RUNGS), min(found) / min(ends) - 1


def _drawn(trial: Any) -> tuple[str, ...]:
    choices = {key: text.split(",") for key, text in GRID.items()}
    return tuple(c[trial.suggest_int(key, 0, len(c) - 1)] for key, c in choices.items())


def replay(table: Table) -> str:
    """Return what TPE, random search and ASHA make of the table, as Markdown."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers: dict[str, Callable[[int], Any]] = {
        "random": lambda seed: optuna.samplers.RandomSampler(seed),
        "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=4),
    }
    lowest = min(curve[-1] for curve in table.values())
    lines = [f"{len(table)} trials, the best {lowest:.4f}; the best so far, mean of {REPLAYS}:"]
    lines += ["", "| sampler | 10 trials | 20 trials | 40 trials |", "|---|---|---|---|"]
    for name, sampler in samplers.items():
        curves = [replayed(table, sampler, 40, seed) for seed in range(REPLAYS)]
        means = [statistics.fmean(curve[n - 1] for curve in curves) for n in (10, 20, 40)]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    shares, behind = zip(*(halved(table, seed) for seed in range(REPLAYS)), strict=True)
    lines += ["", f"ASHA on {FULL} random trials: {statistics.fmean(shares):.0%} of their updates "
              f"({min(shares):.0%} to {max(shares):.0%}); finds the best of them in "
              f"{sum(one == 0 for one in behind)} of {REPLAYS} replays, and is on average "
              f"{statistics.fmean(behind):.2%} behind."]  # fmt: skip
    return "\n".join(lines)


# --- kills --------------------------------------------------------------------------------------


def killed(kills: int, out: Path) -> Cell:
    """Kill a study so many times; return what was lost or made twice."""
    shutil.rmtree(out / "killed", ignore_errors=True)
    rows = [(f"{'good' if n % 2 else 'bad'} film {n}", f"l{n % 2}") for n in range(120)]
    short = [*SHORT[:4], "model.vocab_size=300", "train.steps=20", "evaluate.every=5",
             "checkpoint.every=2", "system.compile=off", "system.threads=1", "name=k"]  # fmt: skip
    asked = [
        *short,
        f"task.train={write(out / 'killed.jsonl', rows)}",
        "optimizer.lr=1e-4..1e-1:log",
    ]
    command = [sys.executable, "-m", "wafergpt", "tune", "scratch", *asked, "--trials",
               str(4 * kills), "--runs", str(out / "killed")]  # fmt: skip
    study, rng = out / "killed" / "k-tune", random.Random(0)
    before: dict[str, Any] = {}
    lost = changed = done = 0
    while done < kills:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        known = _trained(study)
        while process.poll() is None and _trained(study) <= known:
            time.sleep(0.01)
        time.sleep(rng.random() * 1.5)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        now = _settled(study)
        lost += len(before.keys() - now.keys())
        changed += sum(now.get(run) != values for run, values in before.items())
        before = now
    return {"kills": done, "settled": len(before), "lost": lost, "changed": changed,
            "bytes": sum(p.stat().st_size for p in study.rglob("*") if p.is_file())}  # fmt: skip


def _trained(study: Path) -> int:
    return sum(1 for _ in study.glob("trial-*/metrics.jsonl"))


def _settled(folder: Path) -> dict[str, Any]:
    """Return what a study's settled trials ended as, by run, which must be one for each."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    ended = [trial for trial in trials if trial.state in states]
    found = {
        trial.user_attrs["run"]: (trial.state.name, trial.params, trial.values) for trial in ended
    }
    assert len(found) == len(ended), "a trial was made twice"
    return found


def main() -> None:
    """Run the cells that have no row yet, and print what they say."""
    options = parser(__doc__, "tune")
    options.add_argument("what", choices=["sets", "table", "kills"])
    options.add_argument("--data", type=Path, default=labelled_sets.DATA)
    options.add_argument("--sets", nargs="*", choices=SETS,
                         default=["imdb", "banking77", "chnsenticorp"])  # fmt: skip
    options.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options.add_argument("--budget", default="30m")
    options.add_argument("--kills", type=int, default=100)
    asked = options.parse_args()
    labelled_sets.DATA = asked.data
    cells = Cells(asked.out)
    if asked.what == "table":
        rows, _ = labelled_sets.phrasebank()
        print(replay(trials_of_grid(thinned(rows, 1000), cells.out)))
    elif asked.what == "kills":
        cells.measure(f"{asked.kills} kills", partial(killed, asked.kills, cells.out))
    else:
        for name in asked.sets:
            for seed in asked.seeds:
                key = f"{name}, {seed}, {asked.budget}"
                cells.measure(key, partial(of_set, name, seed, asked.budget, cells.out))


if __name__ == "__main__":
    main()
