"""Chinese reviews with few labels: what a language model of Chinese text, read before, is worth.

Three language models of the shape of ``base``, with tokens of their own: one reads ChnSentiCorp's
training reviews without labels, one MSRA's news too, and one 90,000 classical poems, whose licence
is free. Each is then fine-tuned without options on so many labelled reviews, beside a start from
scratch and TF-IDF of characters, and judged on all of dev, and on what of it is not in train. Cells
that have a row are not run again.

    python -m benchmarks.chinese_base --out chinese-base
    python -m benchmarks.chinese_base --out chinese-base --table
"""

from __future__ import annotations

import json
import lzma
import random
import statistics
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

from benchmarks import labelled_sets
from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import thinned
from benchmarks.rivals import Judged, gpt, linear
from wafergpt import atomic_files
from wafergpt.api import pretrain
from wafergpt.data.prepare import prepare
from wafergpt.data.tagged_rows import read_sentences
from wafergpt.runs.run import Run

KINDS = ("reviews and news", "reviews", "poems", "scratch", "TF-IDF")
SIZES = (500, 2000, 0)
SEEDS = (0, 1, 2)
EPOCHS = {"reviews and news": 8, "reviews": 8, "poems": 2}
"""Passes; there are three times as many characters in the poems as in the news."""

VOCABULARY = 8192


def texts_of(kind: str) -> list[str]:
    """Return what a language model reads, shuffled."""
    if kind == "poems":
        with lzma.open(
            labelled_sets.DATA / "zh_chinese_poetry" / "poems.jsonl.xz", "rt", encoding="utf-8"
        ) as file:
            texts = [json.loads(line)["text"] for line in file]
    else:
        texts = [text for text, _ in labelled_sets.chnsenticorp()[0]]
    if "news" in kind:
        news = read_sentences(labelled_sets.DATA / "zh_msra_ner" / "train.conll.gz", repair=True)
        texts += ["".join(words) for words in news.words]
    random.Random(0).shuffle(texts)
    return texts


@cache
def base(kind: str, out: Path) -> Run:
    """Return the language model that reads such text, which is trained once."""
    name = kind.replace(" ", "-")
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts_of(kind))
    atomic_files.write_text(out / f"{name}.jsonl", "\n".join(lines) + "\n")
    corpus = prepare(out / f"{name}.jsonl", out / f"{name}-corpus", vocab_size=VOCABULARY)
    asked = [f"data.corpus={corpus.path}", "train.tokens=null", f"train.epochs={EPOCHS[kind]}",
             "model.dropout=0.1", "evaluate.prompts=[]", f"name={name}"]  # fmt: skip
    return pretrain("base", asked, auto_resume=True, root=out)


def cell(kind: str, size: int, seed: int, out: Path) -> Cell:
    """Train one on some rows; return its accuracy on dev, on new texts of it, and its loss."""
    whole, dev = labelled_sets.chnsenticorp()
    train = thinned(whole, size or len(whole), seed)
    if kind == "TF-IDF":
        found = linear("characters", train, dev)
    else:
        start = "scratch" if kind == "scratch" else base(kind, out)
        found = gpt(start, train, dev, out, [f"seed={seed}"])
    known = {text for text, _ in whole}
    new = [place for place, (text, _) in enumerate(dev) if text not in known]
    fresh = Judged((found[0][new], found[1]), [dev[place] for place in new])
    return {**Judged(found, dev).metrics, "new": fresh.metrics["accuracy"]}


def table(cells: Mapping[str, Cell]) -> str:
    """Return the means over seeds as Markdown: accuracy, accuracy on new texts, loss."""
    lines = ["| labelled rows | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for size in SIZES:
        shown = []
        for kind in KINDS:
            found = [cells[key] for s in SEEDS if (key := f"{kind}, {size}, {s}") in cells]
            means = [statistics.fmean(one[key] for one in found)
                     for key in ("accuracy", "new", "loss")] if found else []  # fmt: skip
            shown.append(", ".join(f"{mean:.3f}" for mean in means))
        lines.append(f"| {size or 'all'} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have no row yet, small ones first, and print the table."""
    options = parser(__doc__, "chinese-base")
    options.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    options.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    options.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    asked = options.parse_args()
    cells = Cells(asked.out)
    wanted = [(k, size, s) for size in asked.sizes for s in asked.seeds for k in asked.kinds]
    for kind, size, seed in [] if asked.table else wanted:
        cells.measure(f"{kind}, {size}, {seed}", partial(cell, kind, size, seed, cells.out))
    print(table(cells))


if __name__ == "__main__":
    main()
