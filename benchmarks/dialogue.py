"""Replies to customers: a GPT, fine-tuned without options, beside replies to similar messages.

Schema-guided dialogues: all of train, one reply of each of some test dialogues, drawn once. The
rival gives each the reply that followed the training messages nearest to it, by TF-IDF of words
and pairs of the last three messages, the last one twice. What replies say of times, addresses and
prices comes from tables that no model here sees, so BLEU is low for all.

A folder for each network has a ``sample.md`` with replies of both, in an order drawn for each. Who
judges them writes ``judged.txt`` beside it, a line for each, such as ``3 a``, ``4 both`` or
``5 neither``, without looking into ``key.json``.

    python -m benchmarks.dialogue --out dialogue
    python -m benchmarks.dialogue --out dialogue --options train.epochs=1
    python -m benchmarks.dialogue --out dialogue --table
"""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import DATA
from wafergpt import atomic_files
from wafergpt.api import finetune
from wafergpt.inference.predictor import Predictor

FOLDER = DATA / "sgd_dialogue"
PARTS = {"train": "train", "validation": "dev", "test": "test"}
ASKED, JUDGED = 500, 60
"""Replies that are compared with the true ones, and of these those to judge."""

Turns = list[tuple[str, str]]


def dialogues(part: str) -> list[Turns]:
    """Return the turns of a part's dialogues."""
    with gzip.open(FOLDER / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [[(role, text) for role, text in json.loads(line)["turns"]] for line in file]


@cache
def asked() -> list[tuple[Turns, str]]:
    """Return messages of test dialogues, each with the reply that followed."""
    draw = random.Random(0)
    found = []
    for turns in draw.sample(dialogues("test"), ASKED):
        place = draw.choice([n for n, (role, _) in enumerate(turns) if role == "SYSTEM" and n])
        found.append((turns[:place], turns[place][1]))
    return found


def nearest() -> Cell:
    """Reply as somebody did to the nearest messages of the training dialogues."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    start = time.perf_counter()
    known, replies = [], []
    for turns in dialogues("train"):
        for place, (role, text) in enumerate(turns):
            if role == "SYSTEM" and place:
                known.append(_query(turns[:place]))
                replies.append(text)
    features = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    table = features.fit_transform(known)
    given = features.transform([_query(turns) for turns, _ in asked()])
    written = [replies[row.toarray().argmax()] for row in (one @ table.T for one in given)]
    seconds = time.perf_counter() - start
    return {**scores(written), "seconds": seconds, "replies": written}


def _query(turns: Turns) -> str:
    return " ".join(text for _, text in [*turns[-3:], turns[-1]])


def ours(model: str, seed: int, options: Sequence[str], out: Path) -> Cell:
    """Fine-tune, and reply."""
    files = [f"task.{part}={FOLDER / f'{name}.jsonl.gz'}" for part, name in PARTS.items()]
    run_name = f"name={plain(cell_name(model, seed, options))}"
    settings = ["task.name=dialogue", *files, *options, f"seed={seed}", run_name]
    run = finetune(model, None, settings, auto_resume=True, root=out / "runs").run
    result, predictor = run.read("result"), Predictor.load(run)
    given, start = [_messages(turns) for turns, _ in asked()], time.perf_counter()
    answers = predictor.predict(given)
    rate = ASKED / (time.perf_counter() - start)
    written = [answer["reply"] if answer else "" for answer in answers]
    return {
        **scores(written),
        **{key: result["test"][key] for key in ("loss", "perplexity")},
        "seconds": result["elapsed"],
        "replies_per_second": rate,
        "replies": written,
    }


def _messages(turns: Turns) -> list[dict[str, str]]:
    roles = {"USER": "user", "SYSTEM": "assistant"}
    return [{"role": roles[role], "content": text} for role, text in turns]


def scores(written: Sequence[str]) -> Cell:
    """Compare replies with the true ones."""
    from sacrebleu import corpus_bleu, corpus_chrf

    wanted = [reply for _, reply in asked()]
    return {
        "bleu": corpus_bleu(written, [wanted]).score,
        "chrf": corpus_chrf(written, [wanted]).score,
        "same": sum(a == b for a, b in zip(written, wanted, strict=True)) / len(wanted),
    }


def cell_name(model: str, seed: int, options: Sequence[str]) -> str:
    """Return the name of a network's cell."""
    return ", ".join([model, str(seed), *options])


def plain(name: str) -> str:
    """Return a cell's name as that of a run and a folder."""
    return re.sub(r"[^\w.]+", "-", name)


def write_sample(ours: Cell, theirs: Cell, out: Path) -> None:
    """Write what is to be judged, and apart from it which reply is whose."""
    out.mkdir(exist_ok=True)
    draw, lines, key = random.Random(1), [], []
    for number, (turns, _) in enumerate(asked()[:JUDGED]):
        pair = [("gpt", ours["replies"][number]), ("nearest", theirs["replies"][number])]
        draw.shuffle(pair)
        key.append([whose for whose, _ in pair])
        lines += [f"## {number}", *(f"{role}: {text}" for role, text in turns[-5:])]
        lines += [f"**{letter}**: {text}" for letter, (_, text) in zip("ab", pair, strict=True)]
        lines.append("")
    atomic_files.write_text(out / "sample.md", "\n".join(lines))
    atomic_files.write_json(out / "key.json", key)


def judged(out: Path) -> dict[str, int]:
    """Count whose reply fits, of those that were judged: one's, both, or neither."""
    key: list[list[str]] = json.loads((out / "key.json").read_text())
    found: dict[str, int] = {}
    for line in (out / "judged.txt").read_text().split("\n"):
        if words := line.split():
            verdict = words[1]
            whose = key[int(words[0])]["ab".index(verdict)] if verdict in "ab" else verdict
            found[whose] = found.get(whose, 0) + 1
    return found


def table(cells: Mapping[str, Cell]) -> str:
    """Return the scores as Markdown."""
    lines = ["| model | perplexity | BLEU | chrF2 | the very reply | seconds |", "|---" * 6 + "|"]
    for name, cell in cells.items():
        perplexity = f"{cell['perplexity']:.2f}" if "perplexity" in cell else ""
        lines.append(
            f"| {name} | {perplexity} | {cell['bleu']:.1f} | {cell['chrf']:.1f} "
            f"| {cell['same']:.1%} | {cell['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "dialogue")
    options.add_argument("--models", nargs="*", choices=("base", "scratch"), default=["base"])
    options.add_argument("--seeds", nargs="*", type=int, default=[0])
    options.add_argument("--options", nargs="*", default=[], help="Of the fine-tuning.")
    asked_for = options.parse_args()
    cells = Cells(asked_for.out)
    if not asked_for.table:
        cells.measure("nearest", nearest)
        for model in asked_for.models:
            for seed in asked_for.seeds:
                name = cell_name(model, seed, asked_for.options)
                measured = partial(ours, model, seed, asked_for.options, cells.out)
                cells.measure(name, measured)
                write_sample(cells[name], cells["nearest"], cells.out / plain(name))
    print(table(cells))
    for name in cells:
        if (cells.out / plain(name) / "judged.txt").exists():
            print(name, judged(cells.out / plain(name)))


if __name__ == "__main__":
    main()
