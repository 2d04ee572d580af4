"""``wafergpt demo``."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.compared import MORE, cells, failures
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.tables import Column, plain, table
from wafergpt.errors import Interrupted
from wafergpt.progress import working
from wafergpt.runs.run import Run, command_line

COLUMNS = (
    Column("", min_width=10),
    Column("accuracy", right=True),
    Column("loss", right=True),
    Column(MORE, right=True, rank=2),
    Column("time", right=True, rank=1),
)
KINDS = ("gpt", "tfidf", "bilstm")


@click.command("demo", epilog="Example: wafergpt demo --data reviews.csv --label sentiment")
@click.option("--data", type=HomePath(path_type=Path), help="Your own labelled rows.")
@click.option("--text", default="text", show_default=True, help="The text column of --data.")
@click.option("--label", default="label", show_default=True, help="The label column of --data.")
@runs_option
@json_option
def command(data: Path | None, text: str, label: str, runs: Path, as_json: bool) -> None:
    """Run the whole pipeline on film reviews in five minutes."""
    with working("loading torch"):
        from wafergpt.apps.demo import demo
    from wafergpt.cli.next_commands import at_work

    result = demo(data, runs, text, label)
    finished = Run(Path(result["run"]))
    pretrained = Run(runs / "demo-pretrained")
    film = finished.command("predict", "--text", "What a film!")
    judge = film if data is None else at_work(finished)
    words = [
        f"the report: {result['report']}",
        f"next: {judge}",
        f"      {at_work(pretrained)}",
        f"      {command_line('runs', root=runs)}",
    ]
    rows = [result[kind] for kind in KINDS if kind in result]
    scores = cells(rows, ("accuracy", "loss"))
    words = [*failures(rows), *words]
    emit(
        result,
        as_json,
        "\n".join([plain(COLUMNS, scores), "", *words]),
        lambda width: [table(COLUMNS, scores, width), "", *words],
    )
    if "interrupted" in result:
        raise Interrupted(result["interrupted"])
