"""Studies: every trial is taken once, and what a killed process left is taken up."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wafergpt.errors import InputError
from wafergpt.planning.budget import Budget
from wafergpt.tuning.records import Outcome, Trial
from wafergpt.tuning.samplers import Pruner, Sampler
from wafergpt.tuning.spaces import Space, combinations
from wafergpt.tuning.spending import Spending
from wafergpt.tuning.storage import JOURNAL, Way
from wafergpt.tuning.study import Study

SPACES = {
    "optimizer.lr": Space.read("optimizer.lr", "0.001..1.0:log"),
    "train.batch_size": Space.read("train.batch_size", "8,16"),
}
DEFAULT = {"optimizer.lr": 0.1, "train.batch_size": "16"}


def study(folder: Path, directions: Sequence[Way] = ("minimize",), **options: Any) -> Study:
    return Study(folder, folder.name, SPACES, DEFAULT, directions, **options)


def made(of: Study, trials: int) -> list[Outcome]:
    """Make so many trials whose value is their learning rate."""
    for _ in range(trials):
        with of.taken() as trial:
            assert trial is not None
            of.settle(trial, [float(trial.texts.get("optimizer.lr", 0.1))], 1.0)
    return of.outcomes()


def test_the_first_trial_is_the_recipe_as_it_stands(tmp_path: Path) -> None:
    first, second = made(study(tmp_path), 2)
    assert first.is_default
    assert not second.is_default
    assert first.params == DEFAULT
    assert (first.run, second.run) == ("trial-000", "trial-001")


def test_a_default_outside_the_spaces_is_still_first(tmp_path: Path) -> None:
    of = Study(tmp_path, "study", SPACES, {"train.batch_size": "16"}, ["minimize"])
    with of.taken() as trial:
        assert trial is not None
        assert trial.overrides() == []
        of.settle(trial, [1.0], 1.0)
    assert of.outcomes()[0].params == {"train.batch_size": "16"}
    assert made(of, 3)[1].params.keys() == SPACES.keys()


def test_the_best_goes_by_the_direction(tmp_path: Path) -> None:
    for way, choose in (("minimize", min), ("maximize", max)):
        (folder := tmp_path / way).mkdir()
        of = study(folder, [way])  # type: ignore[list-item]
        values = [one.values for one in made(of, 6)]
        best = of.best_of(of.outcomes())
        assert best is not None
        assert best.values == choose(value for value in values if value)


def left_behind(folder: Path) -> tuple[Study, Trial]:
    """Make two trials, and leave the third as a process that dies does."""
    of = study(folder)
    made(of, 2)
    with of.taken() as left:
        assert left is not None
    return of, left


def test_what_was_left_is_taken_up_with_its_settings(tmp_path: Path) -> None:
    of, left = left_behind(tmp_path)
    other = study(tmp_path)
    with other.taken() as again:
        assert again is not None
        assert (again.run, again.texts) == (left.run, left.texts)
        other.settle(again, [1.0], 1.0)
    assert [one.run for one in of.outcomes()] == ["trial-000", "trial-001", "trial-002"]


def test_what_was_left_twice_keeps_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes it up may die before Optuna has its settings again."""
    of, left = left_behind(tmp_path)
    dying = study(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_drawing", lambda study, trial: 1 / 0)
        with pytest.raises(ZeroDivisionError), dying.taken():
            pass
    assert not of.others_at_work()
    with study(tmp_path).taken() as again:
        assert again is not None
        assert (again.run, again.texts) == (left.run, left.texts)
        assert of.others_at_work()
    # One that is new has other settings.
    other = study(tmp_path)
    texts = [left.texts]
    for _ in range(3):
        with other.taken() as trial:
            assert trial is not None
            other.settle(trial, [1.0], 1.0)
            texts.append(trial.texts)
    assert texts[1] == texts[0]
    assert len({str(one) for one in texts}) == 3


def test_a_trial_is_begun_if_it_fits_beside_those_that_run(tmp_path: Path) -> None:
    of, seen = study(tmp_path), list[tuple[int, int]]()

    def fits(settled: Sequence[Outcome], running: int) -> bool:
        seen.append((len(settled), running))
        return running < 2

    made(of, 1)
    with (
        of.taken(None, fits),
        study(tmp_path).taken(None, fits),
        study(tmp_path).taken(None, fits) as third,
    ):
        assert third is None
    assert seen == [(1, 0), (1, 1), (1, 2)]
    budget = Spending(Budget("flops", 1e16), workers=4)
    settled = [Outcome(str(n), {}, (1.0,), "", 1.0, False, {"flops": 1e15}) for n in range(9)]
    assert [budget.may_go_on(settled, running) for running in (0, 1)] == [True, False]
    assert budget.may_go_on([], 3)


def test_nothing_is_stopped_before_the_first_rung(tmp_path: Path) -> None:
    of = study(tmp_path, pruner="asha")
    for number in range(5):
        with of.taken() as trial:
            assert trial is not None
            shares = [n / 100 for n in range(1, 101)]
            stopped = next((one for one in shares if trial.report(one, 1.0 + number)), 1.0)
            assert stopped == 1.0 if number == 0 else stopped >= 0.07
            of.settle(trial, [1.0] if stopped == 1 else None, 1.0)
    # The usual ten evaluations are of rungs: a tenth is of the first.
    with of.taken() as trial:
        assert trial is not None
        assert trial.report(0.1, 99.0)


def test_a_default_that_was_left_stays_the_default(tmp_path: Path) -> None:
    of = study(tmp_path)
    with of.taken() as trial:
        assert trial is not None
        assert trial.is_default
    assert [one.is_default for one in made(study(tmp_path), 2)] == [True, False]


def test_what_another_process_works_on_is_left_alone(tmp_path: Path) -> None:
    one, other = study(tmp_path), study(tmp_path)
    with one.taken() as first, other.taken() as second:
        assert first is not None
        assert second is not None
        assert first.run != second.run
        one.settle(first, [1.0], 1.0)
        other.settle(second, [2.0], 1.0)
    assert len(one.outcomes()) == 2


def test_no_more_trials_than_asked_for(tmp_path: Path) -> None:
    one, other = study(tmp_path), study(tmp_path)
    made(one, 2)
    with one.taken(3) as last, other.taken(3) as too_many:
        assert last is not None
        assert too_many is None
        one.settle(last, None, 1.0, "stopped early")
    with one.taken(3) as after:
        assert after is None


def test_several_take_every_trial_once(tmp_path: Path) -> None:
    study(tmp_path)

    def work(_: int) -> None:
        of = study(tmp_path)
        for _ in range(5):
            with of.taken(20) as trial:
                if trial is not None:
                    of.settle(trial, [1.0], 1.0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    runs = [one.run for one in study(tmp_path).outcomes()]
    assert sorted(runs) == [f"trial-{number:03}" for number in range(20)]


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "worker_', b"\xff\xfe", b"{}"])
def test_a_torn_record_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    of = study(tmp_path)
    made(of, 2)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    # Once before a study is opened, and once while it is.
    for _ in range(2):
        with journal.open("ab") as file:
            file.write(torn)
        made(of, 1)
        assert torn + b"{" not in journal.read_bytes()
    assert journal.read_bytes().startswith(whole)
    assert len(study(tmp_path).outcomes()) == 4


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    made(study(tmp_path), 1)
    journal = tmp_path / JOURNAL
    journal.write_bytes(b"no journal\n" + journal.read_bytes())
    with pytest.raises(InputError, match=r"study\.journal is damaged"):
        study(tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "cannot be used|is damaged"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "the database cannot be used"),
        ("postgresql+nodriver://nobody@127.0.0.1:1/none", "cannot be used|needs a driver"),
    ],
)
def test_a_database_that_is_down_is_one_line(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        study(tmp_path, storage=address)
    assert "\n" not in str(error.value)


def test_a_grid_tries_everything_once(tmp_path: Path) -> None:
    spaces = {
        key: Space.read(key, text)
        for key, text in (("train.batch_size", "8,16"), ("optimizer.lr", "0.1,0.2,0.4"))
    }
    default = {"train.batch_size": "16", "optimizer.lr": "0.2"}
    of = Study(tmp_path, "study", spaces, default, ["minimize"], sampler="grid")
    found = []
    while True:
        with of.taken() as trial:
            if trial is None:
                break
            found.append(of.outcomes())
            of.settle(trial, [1.0], 1.0)
    params = [tuple(one.params.values()) for one in of.outcomes()]
    assert len(params) == len(set(params)) == 6
    with pytest.raises(InputError, match=r"a grid needs lists of values: optimizer\.lr is a range"):
        combinations(SPACES)


def test_a_grid_that_was_begun_is_completed(tmp_path: Path) -> None:
    """After a kill while it was queued, or with another sampler before."""
    spaces = {"train.batch_size": Space.read("train.batch_size", "8,16,32")}
    for sampler in ("random", "grid"):
        of = Study(
            tmp_path, "study", spaces, {"train.batch_size": "16"}, ["minimize"],
            sampler=sampler,
        )  # fmt: skip
        if sampler == "random":
            made(of, 1)
    while True:
        with of.taken() as trial:
            if trial is None:
                break
            of.settle(trial, [1.0], 1.0)
    assert [one.params["train.batch_size"] for one in of.outcomes()] == ["16", "8", "32"]


def test_processes_that_ask_at_once_do_not_try_the_same(tmp_path: Path) -> None:
    one, other = (study(tmp_path, sampler="random") for _ in range(2))
    made(one, 1)
    with one.taken() as first, other.taken() as second:
        assert first is not None
        assert second is not None
        assert first.texts != second.texts


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_every_sampler_proposes(tmp_path: Path, sampler: str) -> None:
    assert len(made(study(tmp_path, sampler=sampler), 7)) == 7


def test_a_sampler_finds_better_than_chance(tmp_path: Path) -> None:
    of = study(tmp_path)
    values = sorted(one.values[0] for one in made(of, 25) if one.values)
    assert values[0] < 0.003
    importances = of.importances()
    assert importances["optimizer.lr"] > 0.5


@pytest.mark.parametrize(
    ("sampler", "pruner", "trials"), [("gp", "none", 18), ("cmaes", "hyperband", 25)]
)
def test_settings_that_the_default_lacks_are_modelled(
    tmp_path: Path, sampler: Sampler, pruner: Pruner, trials: int
) -> None:
    keys = ("model.dropout", "train.label_smoothing")
    spaces = {key: Space.read(key, "0.0..1.0") for key in keys}
    of = Study(tmp_path, "study", spaces, {}, ["minimize"], sampler=sampler, pruner=pruner)
    for _ in range(trials):
        with of.taken() as trial:
            assert trial is not None
            distances = [(float(trial.texts.get(key, 0.0)) - 0.6) ** 2 for key in keys]
            of.settle(trial, [sum(distances)], 1.0)
    outcomes = of.outcomes()
    assert outcomes[0].is_default
    assert outcomes[0].params == {}
    assert [one.number for one in outcomes] == list(range(trials))
    values = [one.values[0] for one in outcomes if one.values]
    # Of random settings it is 0.2.
    assert sum(values[-5:]) / 5 < 0.06


def test_hopeless_trials_stop_early(tmp_path: Path) -> None:
    of, stopped = study(tmp_path, pruner="asha"), []
    for number in range(12):
        with of.taken() as trial:
            assert trial is not None
            value = 1.0 if number < 6 else 2.0
            stops = any(trial.report(share, value) for share in (0.1, 0.3, 1.0))
            stopped.append(stops)
            of.settle(trial, None if stops else [value], 1.0, "stopped early" if stops else "")
    assert not stopped[0]
    assert all(stopped[6:])


def test_a_trial_is_compared_with_the_default(tmp_path: Path) -> None:
    of = study(tmp_path, pruner="asha")
    for value, stops in ((1.0, False), (2.0, True)):
        with of.taken() as trial:
            assert trial is not None
            assert any(trial.report(share, value) for share in (0.1, 0.3, 1.0)) == stops
            of.settle(trial, None if stops else [value], 1.0)


def test_a_default_that_loses_is_trained_to_its_end(tmp_path: Path) -> None:
    of = study(tmp_path, pruner="asha")
    with of.taken() as default, of.taken() as other:
        assert default is not None
        assert other is not None
        assert not other.report(0.1, 1.0)
        assert not any(default.report(share, 2.0) for share in (0.1, 0.3, 1.0))


KILLED = """
import sys, time
from pathlib import Path
from tests.tuning.test_study import study
of = study(Path(sys.argv[1]))
while True:
    with of.taken(40) as trial:
        if trial is None:
            break
        time.sleep(0.01)
        with open(sys.argv[1] + "/made", "a") as file:
            file.write(trial.run + "\\n")
        of.settle(trial, [1.0], 1.0)
"""


@pytest.mark.slow
def test_kills_lose_no_settled_trial(tmp_path: Path) -> None:
    generator, kills = random.Random(0), 0
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    settled: set[str] = set()
    study(tmp_path)
    for _ in range(12):
        process = subprocess.Popen(command)
        # Optuna takes a while to import.
        while process.poll() is None and not _moved(tmp_path, settled):
            time.sleep(0.01)
        time.sleep(generator.random() * 0.3)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        now = {one.run for one in study(tmp_path).outcomes()}
        assert settled <= now
        settled = now
        if len(settled) == 40:
            break
    assert kills > 2
    subprocess.run(command, check=True)
    runs = [one.run for one in study(tmp_path).outcomes()]
    assert len(runs) == len(set(runs)) == 40
    # Twice only what was made and not yet settled when its process was killed.
    assert len((tmp_path / "made").read_text().split()) <= 40 + kills


def _moved(folder: Path, settled: set[str]) -> bool:
    journal = folder / "made"
    return journal.exists() and len(journal.read_text().split()) > len(settled)
