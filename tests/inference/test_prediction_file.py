"""Predictions of a file, beside its own columns, that go on after an interruption."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wafergpt.api import finetune
from wafergpt.cli.predict import command
from wafergpt.errors import InputError, Interrupted
from wafergpt.inference import prediction_file
from wafergpt.inference.predictor import Predictor
from wafergpt.tasks.samples import InputRow

SMALL = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=16",
    "model.vocab_size=270", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "train.steps=4", "train.batch_size=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("files")
    write(home / "train.csv", 60)
    write(home / "test.csv", 40)
    return home


@pytest.fixture(scope="module")
def predictor(home: Path) -> Predictor:
    rows = [f"task.train={home / 'train.csv'}", f"task.test={home / 'test.csv'}"]
    return finetune("scratch", None, [*SMALL, *rows, "name=clf"], root=home)


def write(path: Path, n: int, blank: int = 0) -> Path:
    rng = random.Random(n)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "text", "label"])
        for row in range(n):
            words = " ".join(rng.choices(["good", "bad", 'a "quoted"', "one,two", "ä"], k=5))
            writer.writerow([row, "" if row < blank else words, "ab"[row % 2]])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_file, "ROWS", 16)


def test_columns_are_kept_and_answers_added(predictor: Predictor, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", 50, blank=3)
    done = predictor.predict_file(source, tmp_path / "out.csv")
    assert {key: done[key] for key in ("rows", "blank", "before")} == {
        "rows": 50, "blank": 3, "before": 0,
    }  # fmt: skip
    given, found = read(source), read(tmp_path / "out.csv")
    assert [{k: row[k] for k in ("id", "text", "label")} for row in found] == given
    assert list(found[0]) == ["id", "text", "label", "predicted_label", "predicted_score"]
    assert {row["predicted_label"] for row in found[:3]} == {""}
    for row, answer in zip(found, predictor.predict([r["text"] for r in given]), strict=True):
        if answer is not None:
            assert row["predicted_label"] == answer["label"]
            assert float(row["predicted_score"]) == pytest.approx(answer["score"], abs=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_empty_columns_of_a_spreadsheet_are_no_columns(
    predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("text,id,,\nA fine film.,1,,\nA dull one.,2,,\n")
    predictor.predict_file(tmp_path / "in.csv", tmp_path / "out.csv")
    assert [row["id"] for row in read(tmp_path / "out.csv")] == ["1", "2"]
    (tmp_path / "in.csv").write_text("text,id,,\nA fine film.,1,,x\n")
    with pytest.raises(InputError, match="line 2: more than one column ''"):
        predictor.predict_file(tmp_path / "in.csv", tmp_path / "more.csv")


def test_jsonl_has_all_scores_and_the_rows_own_columns(
    predictor: Predictor, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    rows: list[dict[str, Any]] = [
        {"text": "good", "n": 1.5, "tags": ["a"]},
        {"text": None},
        {"text": "bad", "x": None},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictor.predict_file(source, tmp_path / "out.jsonl", prefix="p")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [list(row) for row in found] == [
        [*row, "p_label", "p_score", "p_scores"] for row in rows
    ]
    assert sum(found[0]["p_scores"].values()) == pytest.approx(1)
    assert found[0] | rows[0] == found[0]
    assert found[1]["p_label"] is None
    predictor.predict_file(source, tmp_path / "out.tsv")
    head, first, *_ = (tmp_path / "out.tsv").read_text().splitlines()
    assert head == '"text"\t"n"\t"tags"\t"x"\t"predicted_label"\t"predicted_score"'
    assert first.startswith('good\t1.5\t"[""a""]"\t\t')


def test_a_run_lists_its_mistakes(predictor: Predictor, home: Path) -> None:
    found, result = read(predictor.run.path / "mistakes.csv"), predictor.run.read("result")
    assert list(found[0]) == ["text", "label", "predicted", "probability", "loss"]
    assert len(found) == round((1 - result["test"]["accuracy"]) * 40)
    losses = [float(row["loss"]) for row in found]
    assert losses == sorted(losses, reverse=True)
    known = {(row["text"], row["label"]) for row in read(home / "test.csv")}
    for row, answer in zip(found, predictor.predict([r["text"] for r in found]), strict=True):
        assert (row["text"], row["label"]) in known
        assert answer is not None
        assert row["predicted"] == answer["label"] != row["label"]
        assert float(row["probability"]) == pytest.approx(answer["score"], abs=1e-5)
        # Of two labels.
        share = pytest.approx(1 - answer["score"], abs=1e-5)
        assert math.exp(-float(row["loss"])) == share


def test_a_part_of_something_else_stays(predictor: Predictor, tmp_path: Path) -> None:
    source, part = write(tmp_path / "in.csv", 5), tmp_path / "out.csv.part"
    part.write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        predictor.predict_file(source, tmp_path / "out.csv")
    assert part.read_text() == "mine"


class Killed(BaseException):
    """Ends a call as a kill does: nothing after it is done."""


def killed_after(parts: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    real, calls = Predictor.answers, []

    def answers(self: Predictor, given: Any, *rest: Any) -> Any:
        calls.append(given)
        if len(calls) == parts + 2:
            raise error
        return real(self, given, *rest)

    monkeypatch.setattr(Predictor, "answers", answers)


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_an_interrupted_file_goes_on_with_the_same_bytes(
    predictor: Predictor, tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in.csv", 70), tmp_path / "out.csv"
    predictor.predict_file(source, tmp_path / "whole.csv")
    with monkeypatch.context() as patched:
        killed_after(parts, patched, Killed)
        with pytest.raises(Killed):
            predictor.predict_file(source, out)
    assert not out.exists()
    part = tmp_path / "out.csv.part"
    with part.open("a") as file:
        file.write('17,"torn')
    done = predictor.predict_file(source, out)
    assert done["before"] == 16 * parts
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv", "whole.csv"]


def test_what_was_begun_with_something_else_is_not_mixed(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in.csv", 40), tmp_path / "out.csv"
    with monkeypatch.context() as patched:
        killed_after(1, patched, KeyboardInterrupt)
        with pytest.raises(Interrupted, match="the same command goes on"):
            predictor.predict_file(source, out)
    with pytest.raises(InputError, match="begun with other settings"):
        predictor.predict_file(source, out, prefix="p")
    write(source, 41)
    with pytest.raises(InputError, match="begun with other input"):
        predictor.predict_file(source, out)
    write(source, 40)
    (tmp_path / "out.csv.part").write_text("id,te")
    assert predictor.predict_file(source, out)["before"] == 0
    assert len(read(out)) == 40


def test_an_input_that_changes_meanwhile_is_no_shorter_output(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in.csv", 40), tmp_path / "out.csv"
    real = Predictor.answers

    def answers(self: Predictor, given: Any, *rest: Any) -> Any:
        write(source, 20)
        return real(self, given, *rest)

    monkeypatch.setattr(Predictor, "answers", answers)
    with pytest.raises(InputError, match="has changed meanwhile"):
        predictor.predict_file(source, out)
    assert not out.exists()


BAD: dict[str, tuple[str, str, str]] = {
    "a name that is taken": ("id,text,predicted_label\n1,a,b\n", "out.csv", "--prefix NAME"),
    "a column twice": ("id,id,text\n1,2,a\n", "out.csv", "more than one column 'id'"),
    "no text column": ("id,words\n1,a\n", "out.csv", "no column 'text'"),
    "a broken row at the end": ("id,text\n1,a\n2,b,c\n", "out.csv", "line 3"),
    "no rows": ("id,text\n", "out.csv", "no rows"),
    "no table": ("id,text\n1,a\n", "out.xlsx", "must end in .csv"),
    "the input": ("id,text\n1,a\n", "in.csv", "is the input itself"),
    "no folder": ("id,text\n1,a\n", "gone/out.csv", "no such folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_written(
    predictor: Predictor, tmp_path: Path, name: str
) -> None:
    content, out, message = BAD[name]
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        predictor.predict_file(tmp_path / "in.csv", tmp_path / out)
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]
    assert (tmp_path / "in.csv").read_text() == content


def test_an_output_is_never_replaced(predictor: Predictor, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.csv", 3), tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists: choose another --out"):
        predictor.predict_file(source, out)
    assert out.read_text() == "mine"


def test_the_command(predictor: Predictor, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.csv", 20), tmp_path / "out.csv"
    run = str(predictor.run.path)
    done = CliRunner().invoke(command, [run, str(source), "--out", str(out), "--json"])
    assert json.loads(done.stdout)["rows"] == len(read(out)) == 20
    shown = CliRunner().invoke(command, [run, str(source)]).stdout.splitlines()
    assert [json.loads(line)["label"] for line in shown] == [
        row["predicted_label"] for row in read(out)
    ]
    for arguments, message in (
        (["--text", "a", "--out", str(out)], "--out is for"),
        ([str(tmp_path / "gone.csv")], "is no file"),
        ([str(source), "--file", str(source)], "is no file"),
    ):
        failed = CliRunner().invoke(command, [run, *arguments])
        assert isinstance(failed.exception, InputError)
        assert message in str(failed.exception)


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded")
def test_kills_at_any_moment_leave_the_same_bytes(predictor: Predictor, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.csv", 6_000), tmp_path / "out.csv"
    begun = time.monotonic()
    arguments = ["predict", str(predictor.run.path), str(source), "--out"]
    start = [sys.executable, "-m", "wafergpt", *arguments]
    subprocess.run([*start, str(tmp_path / "whole.csv")], check=True)
    seconds, rng = time.monotonic() - begun, random.Random(0)
    for _ in range(5):
        process = subprocess.Popen([*start, str(out)], start_new_session=True)
        try:
            process.wait(rng.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not out.exists():
        subprocess.run([*start, str(out)], check=True)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_column_whose_name_is_no_text_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "hi", "k\\ud800": 1}\n')
    for out in ("out.csv", "out.jsonl"):
        with pytest.raises(InputError, match=r"in.jsonl, line 1: .*surrogate"):
            predictor.predict_file(tmp_path / "in.jsonl", tmp_path / out)


def test_a_part_has_few_characters_in_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_file, "CHARACTERS", 100)
    rows = [InputRow(n, {"text": "a", "more": [{"b": "c" * 60}]}, "a", "a") for n in range(6)]
    assert [len(part) for part in prediction_file._parts(rows)] == [2, 2, 2]


def test_numbers_that_json_lacks_are_written_as_none(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "hi", "x": NaN, "y": [1.5, -Infinity]}\n')
    predictor.predict_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    written = json.loads((tmp_path / "out.jsonl").read_text(), parse_constant=pytest.fail)
    assert written["x"] is None
    assert written["y"] == [1.5, None]
