"""Zeros in training and after it: what each algorithm costs in validation loss.

A small language model of Wikipedia: dense, and with 75% of its blocks' weights at zero, by each
algorithm and several seeds; then the dense ones pruned by half after training. Cells that have a
row are not run again; those of other tokens are in a folder of their own.

    python -m benchmarks.sparsity --out sparsity
    python -m benchmarks.sparsity --out sparsity --tokens 32000000
    python -m benchmarks.sparsity --out sparsity --table
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.cells import Cell, Cells, parser
from benchmarks.labelled_sets import DATA
from wafergpt.api import pretrain, prune
from wafergpt.config import load_recipe
from wafergpt.data.prepare import prepare
from wafergpt.runs.run import Run
from wafergpt.sparsity.criteria import Method

SHAPE = [
    "model.n_layers=4", "model.d_model=128", "model.n_heads=2", "model.seq_len=256",
    "train.batch_size=16", "optimizer.lr=3e-3", "schedule.name=linear", "schedule.warmup=5%",
    "schedule.final=0", "evaluate.batches=100",
    f"evaluate.every={1 << 40}", f"checkpoint.every={1 << 40}", "system.compile=off",
]  # fmt: skip
VOCABULARY, TOKENS = 4096, 8_000_000
SPARSE = ["sparsity.sparsity=0.75", "sparsity.every=50"]
TRAINED: dict[str, list[str]] = {
    "dense": [],
    "static": [*SPARSE, "sparsity.algorithm=static"],
    "static, erk": [*SPARSE, "sparsity.algorithm=static", "sparsity.distribution=erk"],
    "SET": [*SPARSE, "sparsity.algorithm=set"],
    "RigL": [*SPARSE, "sparsity.algorithm=rigl"],
    "RigL, erk": [*SPARSE, "sparsity.algorithm=rigl", "sparsity.distribution=erk"],
    "GMP": [*SPARSE, "sparsity.algorithm=gmp"],
}
PRUNED: tuple[Method, ...] = ("magnitude", "wanda", "sparsegpt")
SEEDS = (0, 1, 2)


def trained(name: str, seed: int, tokens: int, out: Path) -> Cell:
    """Train one of ``TRAINED``; return its loss, FLOPs and seconds."""
    folder = f"dense-{seed}" if name == "dense" else "run"
    shutil.rmtree(out / "runs" / folder, ignore_errors=True)
    asked = [*SHAPE, f"train.tokens={tokens}", *TRAINED[name], f"seed={seed}",
             f"data.corpus={out / 'corpus'}"]  # fmt: skip
    run = pretrain(load_recipe(None, [*asked, f"name={folder}"]), root=out / "runs")
    result, last = run.read("result"), run.metrics()[-1]
    return {
        "loss": result["val_loss"],
        "flops": last["flops"],
        "sparse_flops": last.get("sparse_flops", last["flops"]),
        "seconds": result["time"]["updates"],
    }


def pruned(method: Method, pattern: bool, seed: int, out: Path) -> Cell:
    """Prune the dense run of a seed by half; return its loss."""
    shutil.rmtree(out / "runs" / "pruned", ignore_errors=True)
    dense = Run.find(f"dense-{seed}", out / "runs")
    made = prune(dense, "pruned", method=method, pattern=pattern, root=out / "runs")
    return {"loss": made.read("result")["val_loss_after"]}


def table(cells: Mapping[str, Cell]) -> str:
    """Return the means over seeds, and of the pruned ones the rise, as Markdown."""
    lines = ["| in training, 75% zeros | validation loss | against dense | FLOPs on paper |",
             "|---|---|---|---|"]  # fmt: skip

    def of(name: str) -> list[Cell]:
        return [cells[key] for seed in SEEDS if (key := _key(name, seed)) in cells]

    def rise(name: str) -> float:
        rises = [
            cells[key]["loss"] - cells[_key("dense", seed)]["loss"]
            for seed in SEEDS
            if (key := _key(name, seed)) in cells
        ]
        return statistics.fmean(rises)

    dense = of("dense")
    for name in TRAINED:
        found = of(name)
        if not found:
            continue
        losses = [cell["loss"] for cell in found]
        spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
        more = statistics.fmean(losses) / statistics.fmean(c["loss"] for c in dense) - 1
        share = found[0]["sparse_flops"] / found[0]["flops"]
        lines.append(f"| {name} | {statistics.fmean(losses):.3f}{spread} | {more:+.1%} "
                     f"| {share:.0%} |")  # fmt: skip
    lines += ["", "| after training, 50% zeros | rise of the loss | of magnitude's |",
              "|---|---|---|"]  # fmt: skip
    for pattern in ("", ", 2:4"):
        for method in PRUNED:
            if of(f"{method}{pattern}") and of(f"magnitude{pattern}"):
                own, most = rise(f"{method}{pattern}"), rise(f"magnitude{pattern}")
                lines.append(f"| {method}{pattern} | {own:+.3f} | {own / most:.2f} |")
    return "\n".join(lines)


def _key(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def main() -> None:
    """Run the cells that have no row yet, and print the table."""
    options = parser(__doc__, "sparsity")
    options.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    options.add_argument("--kinds", nargs="+", choices=TRAINED, default=list(TRAINED))
    options.add_argument("--tokens", type=int, default=TOKENS, help="Of each training.")
    asked = options.parse_args()
    cells = Cells(asked.out / str(asked.tokens))
    out = cells.out
    if not asked.table:
        source = DATA / "wikipedia_en" / "articles.jsonl.xz"
        prepare(source, out / "corpus", vocab_size=VOCABULARY)
        for seed in asked.seeds:
            for name in asked.kinds:
                cells.measure(_key(name, seed), partial(trained, name, seed, asked.tokens, out))
            for method in PRUNED if _key("dense", seed) in cells else ():
                for pattern in (False, True):
                    key = _key(f"{method}, 2:4" if pattern else method, seed)
                    cells.measure(key, partial(pruned, method, pattern, seed, out))
    print(table(cells))


if __name__ == "__main__":
    main()
