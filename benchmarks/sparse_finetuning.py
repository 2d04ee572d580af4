"""Sparse pretraining, then dense or sparse fine-tuning on film reviews (SPDF, arXiv:2303.10464).

A small language model reads IMDB's training reviews without their labels: dense, and with half and
three quarters of its blocks' weights at zero. Each is then fine-tuned on labelled reviews, dense or
with the same share of zeros, and judged on 5,000 test reviews. No n-gram tables, so that
the blocks carry the result. Cells that have a row are not run again.

    python -m benchmarks.sparse_finetuning --out sparse-finetuning
    python -m benchmarks.sparse_finetuning --out sparse-adamw --optimizer adamw --shares 0 0.75
    python -m benchmarks.sparse_finetuning --out sparse-finetuning --table
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import some_of_imdb, thinned
from benchmarks.rivals import write
from wafergpt.api import finetune, pretrain
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.runs.run import Run

ROWS = 10_000
SHAPE = [
    "model.n_layers=4", "model.d_model=128", "model.n_heads=2", "model.seq_len=512",
    "train.tokens=5000000", "train.batch_size=8", "train.sampled_softmax=1024",
    "optimizer.lr=3e-3", "schedule.name=linear", "schedule.warmup=5%",
    "schedule.final=0", "evaluate.batches=100", f"evaluate.every={1 << 40}",
    f"checkpoint.every={1 << 40}", "system.compile=off",
]  # fmt: skip
TUNED = [
    "task.ngrams=none", "task.pooling=mean_max_last", "task.cut=start", "train.epochs=1",
    "train.batch_size=32", "optimizer.lr=6e-4", "optimizer.beta2=0.98", "schedule.name=linear",
    "schedule.warmup=5%", "schedule.final=0", "system.compile=off",
]  # fmt: skip
SHARES = (0.0, 0.5, 0.75)
SEEDS = (0, 1, 2)


def pretrained(optimizer: str, share: float, seed: int, out: Path) -> Run:
    """Return the language model with such a share of zeros, which is trained once."""
    name = f"lm-{share}-{seed}" + ("" if optimizer == "muon" else f"-{optimizer}")
    asked = [*SHAPE, f"optimizer.name={optimizer}", *_zeros(share), f"seed={seed}",
             f"data.corpus={out / 'corpus'}"]  # fmt: skip
    return pretrain(load_recipe(None, [*asked, f"name={name}"]), auto_resume=True, root=out)


def cell(optimizer: str, share: float, sparse: bool, seed: int, out: Path) -> Cell:
    """Fine-tune one; return its accuracy and loss on test rows, and the FLOPs of both stages."""
    first = pretrained(optimizer, share, seed, out)
    shutil.rmtree(out / "tuned", ignore_errors=True)
    files = [f"task.{part}={out / f'{part}.jsonl'}" for part in ("train", "test")]
    asked = [*TUNED, *files, *_zeros(share if sparse else 0.0), f"seed={seed}", "name=tuned"]
    second = finetune(first, load_recipe(None, asked), root=out).run
    ends = [run.metrics()[-1] for run in (first, second)]
    shares = [end.get("sparse_flops", end["flops"]) / end["flops"] for end in ends]
    return {
        "val_loss": first.read("result")["val_loss"],
        **{key: second.read("result")["test"][key] for key in ("accuracy", "loss")},
        "pretraining": shares[0],
        "fine-tuning": shares[1],
        "flops": [end["flops"] for end in ends],
    }


def _zeros(share: float) -> list[str]:
    return ["sparsity.algorithm=static", f"sparsity.sparsity={share}"] if share else []


def table(cells: Mapping[str, Cell], optimizer: str) -> str:
    """Return an optimizer's means over seeds as Markdown."""
    lines = ["| zeros in pretraining | fine-tuning | validation loss | accuracy | loss "
             "| FLOPs of pretraining | of fine-tuning |", "|---" * 7 + "|"]  # fmt: skip
    for share, sparse in _kinds():
        found = [
            cells[key] for seed in SEEDS if (key := _key(optimizer, share, sparse, seed)) in cells
        ]
        if found:
            mean = {key: statistics.fmean(one[key] for one in found)
                    for key in found[0] if key != "flops"}  # fmt: skip
            lines.append(f"| {share:.0%} | {'sparse' if sparse else 'dense'} "
                         f"| {mean['val_loss']:.3f} | {mean['accuracy']:.4f} | {mean['loss']:.4f} "
                         f"| {mean['pretraining']:.0%} | {mean['fine-tuning']:.0%} |")  # fmt: skip
    return "\n".join(lines)


def _kinds() -> list[tuple[float, bool]]:
    return [(s, sparse) for s in SHARES for sparse in ((False, True) if s else (False,))]


def _key(optimizer: str, share: float, sparse: bool, seed: int) -> str:
    kind = f"{share}, {'sparse' if sparse else 'dense'}, {seed}"
    return kind if optimizer == "muon" else f"{kind}, {optimizer}"


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "sparse-finetuning")
    options.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    options.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=list(SHARES))
    options.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    asked = options.parse_args()
    cells = Cells(asked.out)
    out = cells.out
    if not asked.table:
        train, test = some_of_imdb()
        corpus = prepare(write(out / "reviews.jsonl", train), out / "corpus", vocab_size=8192)
        print(f"{corpus.path}: read", flush=True)
        write(out / "train.jsonl", thinned(train, ROWS))
        write(out / "test.jsonl", test)
        for seed in asked.seeds:
            for share, sparse in _kinds():
                if share in asked.shares:
                    key = asked.optimizer, share, sparse, seed
                    cells.measure(_key(*key), partial(cell, *key, out))
    print(table(cells, asked.optimizer))


if __name__ == "__main__":
    main()
