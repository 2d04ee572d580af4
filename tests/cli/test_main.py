"""The command as a shell sees it: exit codes, one line for a mistake, and a quick start."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wafergpt.cli import VERBS, _run, main
from wafergpt.cli.exit_codes import explain
from wafergpt.errors import InputError


def call(
    *arguments: str, cwd: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wafergpt", *arguments],
        capture_output=True, text=True, cwd=cwd, input=stdin, timeout=120,
    )  # fmt: skip


HEAVY = ("torch", "transformers", "sklearn", "plotly", "tokenizers", "pandas")


HELP = """
import contextlib, io, json, sys
from wafergpt.cli import main
shown = {}
for verb in json.loads(sys.argv[1]):
    sys.argv = ["wafergpt", *([verb] if verb else []), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            main()
        except SystemExit as end:
            code = end.code
    shown[verb] = code, output.getvalue(), [m for m in HEAVY if m in sys.modules]
print(json.dumps(shown))
""".replace("HEAVY", repr(HEAVY))


@pytest.fixture(scope="module")
def shown() -> dict[str, tuple[int, str, list[str]]]:
    """The exit code and help of each verb, one after the other, and what was imported by then."""
    command = [sys.executable, "-c", HELP, json.dumps(["", *VERBS])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, tuple[int, str, list[str]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_needs_nothing_heavy_and_shows_an_example(
    shown: dict[str, tuple[int, str, list[str]]], verb: str
) -> None:
    code, text, imported = shown[verb]
    assert code == 0
    assert imported == []
    assert "Example: wafergpt" in " ".join(text.split())


def test_the_first_help_imports_next_to_nothing() -> None:
    script = "import sys; from wafergpt.cli import cli; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "click" in done.stdout
    for heavy in (*HEAVY, "numpy", "pydantic", "yaml"):
        assert f"'{heavy}'" not in done.stdout


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ([], "Usage: wafergpt [OPTIONS] VERB"),
        (["mup"], "Usage: wafergpt mup"),
        (["help"], "Usage: wafergpt [OPTIONS] VERB"),
        (["help", "predict"], "Usage: wafergpt predict"),
    ],
)
def test_without_arguments_the_help_is_printed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    usage: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["wafergpt", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(usage)
    assert "Example: wafergpt" in shown.out
    assert shown.err == ""


MISTAKES = [
    (["prepair"], "no verb 'prepair'; did you mean 'prepare'?"),
    (["prepare", "nowhere.txt", "--out", "c"], "nothing to read at 'nowhere.txt'"),
    (["prepare", "empty.txt", "--out", "c"], "empty.txt contains no text"),
    (["prepare", "blank.txt", "--out", "c"], "blank.txt contains no text"),
    (["prepare", "latin.txt", "--out", "c"], "latin.txt, line 1: not UTF-8"),
    (["prepare", "a.jsonl", "--out", "c", "--text", "body"], "no column 'body'"),
    (["prepare", "a.jsonl", "--out", "c", "--vocab-size", "99999"], "too short for a vocabulary"),
    (["prepare", "a.jsonl"], "Missing option '--out'"),
    (["pretrain", "model.n_layer=2"], "did you mean 'model.n_layers'?"),
    (["pretrain", "dmeo"], "did you mean 'demo'?"),
    (["pretrain", "demo", "imdb"], "one recipe at a time"),
    (["pretrain"], "add data.corpus=FOLDER"),
    (["pretrain", "data.corpus=."], "not a corpus"),
    (["pretrain", "model.n_heads=3", "data.corpus=c"], "does not divide"),
    (["pretrain", "--resume", "gone"], "no run 'gone'"),
    (["generate", "gone"], "no run 'gone'"),
    (["finetune", "scratch"], "add task.train=FILE"),
    (["finetune"], "start from a RUN or from 'scratch'"),
    (["pretrain", "demo", "--resume", "x"], "omit 'demo'"),
    (["pretrain", "evaluate.metric=accuracy", "data.corpus=tiny"], "of a language model"),
    (["predict", "gone", "--text", "a"], "no run 'gone'"),
    (["predict", "gone"], "give either --text"),
    (["predict", "gone", "-", "--column", "x"], "--column and --format are for a FILE"),
    (["predict", "gone", "-", "--format", "csv"], "--column and --format are for a FILE"),
    (["report", "gone"], "no run 'gone'"),
    (["import", "gone", "--name", "r"], "no folder gone"),
    (["import", ".", "--name", "r"], "no config.json in ."),
    (["import", "."], "Missing option '--name'"),
    (["export", "gone", "--out", "x"], "no run 'gone'"),
    (["export", "gone", "--out", "tiny"], "tiny exists"),
    (["checkpoints", "gone"], "no run 'gone'"),
    (["average", "gone", "--last", "2", "--name", "r"], "no run 'gone'"),
    (["average", "gone", "--name", "r"], "give either --last K or --ema SHARE"),
    (["plan", "optimizer.lr=-1"], "optimizer.lr=-1 is impossible"),
    (
        ["pretrain", "system.device=cuda", "data.corpus=tiny", "model.seq_len=8"],
        "system.device=cuda cannot be used",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from wafergpt.data.prepare import prepare

    folder = tmp_path_factory.mktemp("cli")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_bytes(b" \n\n\t ")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    rows = [json.dumps({"text": f"some text {n}"}) for n in range(20)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    prepare(folder / "a.jsonl", folder / "tiny", vocab_size=260)
    return folder


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=str)
def test_a_mistake_gets_one_line_and_exit_code_2(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "cuda" in " ".join(arguments):
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["wafergpt", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert left.value.code == 2, shown.err
    assert message in lines[0]
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert not (folder / "runs").exists()


@pytest.mark.usefixtures("preloaded")
def test_a_process_ends_with_the_same_line_and_code(folder: Path) -> None:
    result = call("prepare", "nowhere.txt", "--out", "c", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: nothing to read at 'nowhere.txt'")


@pytest.mark.usefixtures("preloaded")
def test_too_small_a_corpus(folder: Path) -> None:
    result = call("pretrain", "data.corpus=tiny", "train.steps=1", cwd=folder)
    assert result.returncode == 2
    assert "less than one" in result.stderr


@pytest.mark.usefixtures("preloaded")
def test_an_interrupt_that_a_library_made_an_error_of_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(arguments: object, **_: object) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise RuntimeError("not exported") from stop

    monkeypatch.setattr("wafergpt.cli.cli.main", export)
    monkeypatch.setattr(sys, "argv", ["wafergpt", "runs"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_debug_shows_the_traceback(folder: Path) -> None:
    result = call("--debug", "prepare", "empty.txt", "--out", "c", cwd=folder)
    assert "Traceback" in result.stderr
    assert "InputError" in result.stderr


def test_variables_of_another_program_do_not_silence_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = call("predict", "nope", "--text", "x", cwd=folder)
    assert result.returncode == 2
    assert "no run 'nope'" in result.stderr


@pytest.mark.usefixtures("preloaded")
def test_show_prints_the_resolved_recipe(folder: Path) -> None:
    result = call("pretrain", "demo", "seed=7", "--show", cwd=folder)
    assert result.returncode == 0
    assert "seed: 7" in result.stdout
    assert "n_layers: 2" in result.stdout


def test_a_full_disk_is_exit_1_and_loses_nothing(folder: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: writes beyond it fail."""
    script = (
        "import resource, signal, sys\n"
        "from wafergpt.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "sys.argv = ['wafergpt', 'prepare', 'a.jsonl', '--out', 'full', '--vocab-size', '260']\n"
        "main()\n"
    )
    # What measures this test's coverage would find the disk full too.
    unmeasured = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, env=unmeasured
    )
    assert result.returncode == 1, result.stderr
    assert "the disk is full" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "full" / "corpus.json").exists()
    done = call("prepare", "a.jsonl", "--out", "full", "--vocab-size", "260", "--json", cwd=folder)
    assert json.loads(done.stdout.splitlines()[-1])["documents"] == 20


def test_a_reader_that_leaves_gets_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m wafergpt pretrain --show | head -1"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env={**os.environ}
    )
    assert "Traceback" not in result.stderr


def test_a_folder_that_is_gone_and_too_little_memory_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(MemoryError()) == 1
    assert "not enough memory" in capsys.readouterr().err
    assert explain(OSError(errno.EROFS, "Read-only file system", "runs/x")) == 2
    assert capsys.readouterr().err == "error: Read-only file system: runs/x\n"
    # Of tempfile: it names no file.
    assert explain(FileNotFoundError(errno.ENOENT, "No usable temporary directory")) == 2
    assert capsys.readouterr().err == "error: No usable temporary directory\n"
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="the current folder no longer exists"):
        _run(["runs"])
