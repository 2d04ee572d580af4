"""Does the best learning rate of a narrow network hold on a wide one? µP beside the standard way.

Real text, every point a whole run. For each width the learning rate is bracketed in octaves, then
seen in half octaves around the best with three seeds; a parabola over log2 of the rate gives the
optimum. An optimum at the edge of what was seen does not count: the bracket then grows.

    python benchmarks/mup_transfer.py --out mup-transfer

The points are kept in OUT, so that it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wafergpt.config import Recipe, recipe_from
from wafergpt.data.prepare import prepare
from wafergpt.reports.charts import ACCENT, INK, MUTED, SECOND, Chart, short
from wafergpt.reports.document import Document
from wafergpt.reports.markup import table

DATA = Path(os.environ.get("WAFERGPT_DATA", "../shared/data")) / "wikipedia_en"
SEEDS = (0, 1, 2)
VOCABULARY = 2048
FIRST_GUESS = {"mup": -6.0, "sp": -8.0}
"""log2 of a learning rate to start looking from."""


class Point(NamedTuple):
    """One run to make."""

    parametrization: str
    width: int
    log2_lr: float
    seed: int


Losses = dict[Point, float]


def recipe(point: Point, base: int, steps: int, corpus: Path) -> Recipe:
    """Return the recipe of a point: the family's settings but for depth, length and horizon."""
    mup = point.parametrization == "mup"
    return recipe_from(
        {
            "name": f"{point.parametrization}-{point.width}-{point.log2_lr}-{point.seed}",
            "seed": point.seed,
            "data": {"corpus": str(corpus)},
            "model": {
                "n_layers": 2,
                "d_model": point.width,
                "n_heads": 4,
                "seq_len": 128,
                "parametrization": point.parametrization,
                "base_d_model": base,
                "init_std": 0.08 if mup else 0.02,
                "embedding_scale": 10.0 if mup else 1.0,
            },
            "train": {"steps": steps, "batch_size": 16, "micro_batch_size": 16},
            "optimizer": {"lr": 2**point.log2_lr},
            "schedule": {"name": "linear", "warmup": "10%", "final": 0.1},
            "evaluate": {"every": steps, "batches": 40},
            "checkpoint": {"every": steps, "keep": 1},
            "system": {"device": "cpu", "precision": "bf16", "compile": "off", "threads": 1},
        }
    )


def run(point: Point, base: int, steps: int, out: Path) -> float:
    """Train one point and return its validation loss; infinity if it diverged."""
    from wafergpt.api import pretrain
    from wafergpt.errors import RunFailed

    asked = recipe(point, base, steps, out / "corpus")
    folder = out / "runs" / asked.name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        loss = float(pretrain(asked, root=out / "runs").read("result")["val_loss"])
    except RunFailed:
        loss = float("inf")
    shutil.rmtree(folder, ignore_errors=True)
    return loss


def optimum(losses: Losses, parametrization: str, width: int) -> dict[str, Any] | None:
    """Fit a parabola to the seeds' means around the lowest; None if that lies at the edge."""
    means = seeded(losses, parametrization, width)
    best = min(means, key=lambda x: means[x], default=0.0)
    # A rate at which a seed diverged is seen, but no parabola goes through it.
    near = [x for x in sorted(means) if abs(x - best) <= 1.01 and math.isfinite(means[x])]
    if len(near) < 4 or best in (min(means), max(means)):
        return None
    a, b, c = np.polyfit(near, [means[x] for x in near], 2)
    lowest = float(np.clip(-b / (2 * a), near[0], near[-1])) if a > 0 else best
    spread = statistics.fmean(
        statistics.stdev(losses[Point(parametrization, width, x, seed)] for seed in SEEDS)
        for x in near
    )
    return {
        "log2_lr": lowest,
        "loss": float(a * lowest**2 + b * lowest + c),
        "seed_std": spread,
        "fit": [float(a), float(b), float(c)],
        "points": {x: means[x] for x in sorted(means)},
    }


def seeded(losses: Losses, parametrization: str, width: int) -> dict[float, float]:
    """Return the mean loss by rate, of the rates that all seeds have seen."""
    rates = {p.log2_lr for p in losses if p[:2] == (parametrization, width)}
    means: dict[float, float] = {}
    for x in rates:
        points = [Point(parametrization, width, x, seed) for seed in SEEDS]
        if all(point in losses for point in points):
            means[x] = statistics.fmean(losses[point] for point in points)
    return means


def sweep(
    parametrization: str, width: int, losses: Losses, train: Callable[[Iterable[Point]], None]
) -> None:
    """Train what is missing for the optimum of one width."""
    first = FIRST_GUESS[parametrization]

    def one(x: float) -> float:
        return losses[Point(parametrization, width, x, 0)]

    train(Point(parametrization, width, x, 0) for x in (first - 1, first, first + 1))
    lowest = min((first - 1, first, first + 1), key=one)
    while lowest in (edges := _edges(losses, parametrization, width)):
        step = -1 if lowest == edges[0] else 1
        train([Point(parametrization, width, lowest + step, 0)])
        lowest = min((lowest, lowest + step), key=one)
    while optimum(losses, parametrization, width) is None:
        around = [lowest + half / 2 for half in range(-2, 3)]
        train(Point(parametrization, width, x, seed) for x in around for seed in SEEDS)
        means = seeded(losses, parametrization, width)
        lowest = min(means, key=lambda x: means[x])


def _edges(losses: Losses, parametrization: str, width: int) -> tuple[float, float]:
    rates = [p.log2_lr for p in losses if p[:2] == (parametrization, width) and p.seed == 0]
    return min(rates), max(rates)


def verdict(losses: Losses, parametrization: str, widths: Sequence[int]) -> dict[str, Any]:
    """Compare the narrowest width's optimum with the widest one's."""
    narrow, wide = (optimum(losses, parametrization, w) for w in (widths[0], widths[-1]))
    assert narrow is not None
    assert wide is not None
    a, b, c = wide["fit"]
    seen = [x for x in wide["points"] if abs(x - wide["log2_lr"]) <= 1.5]
    x = narrow["log2_lr"]
    inside = min(seen) <= x <= max(seen)
    # Beyond the fit's own points a parabola says nothing: the nearest measured loss does.
    rates = sorted(wide["points"])
    there = (
        a * x * x + b * x + c
        if inside
        else float(np.interp(x, rates, [wide["points"][r] for r in rates]))
    )
    return {
        "moved_octaves": wide["log2_lr"] - narrow["log2_lr"],
        "given_up": there / wide["loss"] - 1,
    }


def write_page(losses: Losses, widths: Sequence[int], out: Path) -> Path:
    """Draw loss over learning rate, a line for each width, µP beside the standard way."""
    page = Document()
    charts, rows = [], []
    for kind, title in (("mup", "µP"), ("sp", "Standard")):
        found = {width: optimum(losses, kind, width) for width in widths}
        said = verdict(losses, kind, widths)
        charts.append(_chart(kind, title, found, said))
        for width, best in found.items():
            assert best is not None
            rows.append(
                (f"{title}, {width}", f"{2 ** best['log2_lr']:.5f}", f"{best['log2_lr']:.2f}",
                 f"{best['loss']:.4f}", f"{best['seed_std']:.4f}")
            )  # fmt: skip
    page.add(
        '<header><p class="eyebrow"><span>wafergpt</span><b>µTransfer</b></p>'
        '<h1 class="verdict">The best learning rate, by width</h1></header><section>'
        '<div class="charts">'
        + "".join(page.chart(chart, "") for chart in charts)
        + '<div class="card wide"><h3>Optima</h3>'
        + table(("Network", "Best rate", "log2", "Loss", "Seeds' σ"), rows)
        + "</div></div></section>"
    )
    path = out / "mup-transfer.html"
    path.write_text(page.html("µTransfer · wafergpt"), encoding="utf-8")
    return path


def _chart(kind: str, title: str, found: dict[int, Any], said: dict[str, Any]) -> Chart:
    data: list[dict[str, Any]] = []
    for (width, best), colour in zip(found.items(), (MUTED, ACCENT, SECOND, INK), strict=False):
        rates = sorted(best["points"])
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": f"d_model {width}",
                "x": rates, "y": [short(best["points"][x]) for x in rates],
                "line": {"color": colour, "width": 2}, "marker": {"color": colour, "size": 6},
            }
        )  # fmt: skip
        data.append(
            {
                "type": "scatter", "mode": "markers", "showlegend": False,
                "x": [short(best["log2_lr"])], "y": [short(best["loss"])],
                "marker": {"color": colour, "size": 13, "symbol": "star"},
                "hovertemplate": "optimum %{x:.2f}<extra></extra>",
            }
        )  # fmt: skip
    caption = (
        f"From the narrowest to the widest the optimum moves {said['moved_octaves']:+.2f} octaves; "
        f"keeping the narrow one's rate gives up {said['given_up']:.2%} of the loss."
    )
    axes = {
        "xaxis": {"title": {"text": "log2 learning rate"}},
        "yaxis": {"title": {"text": "Validation loss (nats)"}},
        "showlegend": True,
    }
    return Chart(kind, title, caption, data, axes, height=420)


def main() -> None:
    """Sweep, draw, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="*", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("mup-transfer"))
    choice = parser.parse_args()
    out: Path = choice.out.resolve()
    prepare(DATA / "articles.jsonl.xz", out / "corpus", vocab_size=VOCABULARY)
    widths = sorted(choice.widths)
    kept = out / f"points-{widths[0]}-{choice.steps}.jsonl"
    losses: Losses = {}
    if kept.is_file():
        for line in kept.read_text().splitlines():
            *point, loss = json.loads(line)
            losses[Point(*point)] = loss
    with ProcessPoolExecutor(choice.jobs, get_context("spawn")) as pool:

        def train(points: Iterable[Point]) -> None:
            missing = [point for point in points if point not in losses]
            waiting = [(p, pool.submit(run, p, widths[0], choice.steps, out)) for p in missing]
            for point, future in waiting:
                losses[point] = future.result()
                with kept.open("a") as file:
                    file.write(json.dumps([*point, losses[point]]) + "\n")
                print(*point, f"{losses[point]:.4f}", flush=True)

        for width in widths:
            for kind in ("mup", "sp"):
                sweep(kind, width, losses, train)
    print("| | width | best rate | log2 | loss | σ of seeds |\n|---|---|---|---|---|---|")
    for kind in ("mup", "sp"):
        for width in widths:
            best = optimum(losses, kind, width)
            assert best is not None
            print(
                f"| {kind} | {width} | {2 ** best['log2_lr']:.5f} | {best['log2_lr']:.2f} | "
                f"{best['loss']:.4f} | {best['seed_std']:.4f} |"
            )
        print(f"\n{kind}: {verdict(losses, kind, widths)}\n")
    print(write_page(losses, widths, out))


if __name__ == "__main__":
    main()
