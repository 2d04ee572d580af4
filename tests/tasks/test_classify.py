"""What can be given to a classifier, and what comes back in which place; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.hostile import folders
from wafergpt.checkpoint.imported_run import run_with
from wafergpt.cli.predict import command
from wafergpt.config import recipe_from
from wafergpt.distributed.sharding import fill
from wafergpt.errors import InputError
from wafergpt.inference.predictor import Predictor
from wafergpt.tasks.base import task_of


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    recipe = recipe_from({**folders.RECIPE, "name": "clf"})
    task = task_of(recipe)
    network = task.network()
    fill(network, task.initial_weights(network, None))
    weights = network.state_dict()
    root = tmp_path_factory.mktemp("runs")
    return Predictor.load(run_with(weights, recipe, root, folders.tokenizer(), {}))


def test_one_text_gives_one_answer(classifier: Predictor) -> None:
    (answer,) = classifier.predict(["good"])
    assert answer is not None
    assert answer["label"] in ("a", "b")
    assert classifier.predict("good") == classifier.predict(np.str_("good")) == answer
    assert classifier.predict(" ") is None


@pytest.mark.parametrize(
    "given",
    [
        lambda: ["one", None, " ", "two"],
        lambda: ("one", "", float("nan"), "two"),
        lambda: iter(["one", None, "\n", "two"]),
        lambda: (text for text in ["one", None, "\u3000", "two"]),
        lambda: np.array(["one", "", " ", "two"]),
        lambda: np.array(["one", None, np.nan, "two"], dtype=object),
        lambda: dict.fromkeys(["one", "", " ", "two"]).keys(),
        lambda: pytest.importorskip("pandas").Series(["one", None, float("nan"), "two"]),
        lambda: pytest.importorskip("pandas").array(["one", None, None, "two"], dtype="string"),
    ],
)
def test_answers_stand_where_the_texts_do(classifier: Predictor, given: Callable[[], Any]) -> None:
    first, last = classifier.predict(["one", "two"])
    assert classifier.predict(given()) == [first, None, None, last]


def test_nothing_to_answer(classifier: Predictor) -> None:
    nothing: list[Any] = [[], iter([]), np.array([], dtype=str)]
    for empty in nothing:
        assert classifier.predict(empty) == []
    assert classifier.predict([None, ""]) == [None, None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", ["b", "c"]], r"texts\[1\] is a value of type list"),
        ([["a", "b"]], r"texts\[0\] is a value of type list"),
        (np.array([["a"], ["b"]]), r"texts\[0\] is a value of type ndarray"),
        (["a", b"b"], r"texts\[1\] is a value of type bytes"),
        (["a", 5], r"texts\[1\] is a number \(5\)"),
        (np.array([1.5, 2.0]), r"texts\[0\] is a number"),
        ([True], r"texts\[0\] is a truth value"),
        ([{"text": "a"}], r"texts\[0\] is a value of type dict"),
        (["a", "\ud800"], r"texts\[1\] holds a lone surrogate"),
        (b"a", "takes texts, not bytes"),
        ({"text": ["a"]}, "takes texts, not dict"),
        (None, "not a value of type NoneType"),
        (5, r"not a number \(5\)"),
        (np.array("a"), "not a value of type ndarray"),
        (Path("a"), "not a value of type PosixPath"),
    ],
)
def test_what_is_no_text_is_named(classifier: Predictor, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        classifier.predict(given)


def test_a_whole_table_is_read_by_the_column_of_texts(classifier: Predictor) -> None:
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"text": ["a", "b", None], "other": [1, 2, 3]}
    expected = classifier.predict(["a", "b", None])
    assert classifier.predict(pandas.DataFrame(columns)) == expected
    assert classifier.predict(pyarrow.table(columns)) == expected
    with pytest.raises(InputError, match=r"the table has no column 'text' \(it has body\)"):
        classifier.predict(pandas.DataFrame({"body": ["a"]}))
    with pytest.raises(InputError, match="the table has two columns 'text'"):
        classifier.predict(pandas.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_a_line_for_each_row_of_a_file(classifier: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\none\n\n \ntwo\n")
    run = classifier.run
    done = CliRunner().invoke(command, [str(run.path), "--file", str(path)])
    assert done.exit_code == 0
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == classifier.predict(["one", None, None, "two"])
    assert done.stderr == f"{path}: 4 rows\n2 of 4 texts are blank: null\n"
    done = CliRunner().invoke(command, [str(run.path), "-", "--json"], input="one\n\n")
    assert json.loads(done.stdout.splitlines()[-1])["outputs"][1] is None
