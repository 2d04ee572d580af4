"""``wafergpt demo``."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.compared import cells, columns, failures
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.tables import plain, table
from wafergpt.errors import Interrupted
from wafergpt.progress import working
from wafergpt.runs.run import Run, command_line

SCORES = ("accuracy", "loss")
KINDS = ("gpt", "tfidf", "bilstm")


@click.command("demo", epilog="Example: wafergpt demo --data reviews.csv --label sentiment")
@click.option("--data", type=HomePath(path_type=Path), help="Your own labelled rows.")
@click.option("--text", default="text", show_default=True, help="The text column of --data.")
@click.option("--label", default="label", show_default=True, help="The label column of --data.")
@runs_option
@json_option
def command(data: Path | None, text: str, label: str, runs: Path, as_json: bool) -> None:
    """Run the whole pipeline on film reviews in about five minutes."""
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
    head, scores = columns(SCORES), cells(rows, SCORES)
    words = [*failures(rows), *words]
    emit(
        result,
        as_json,
        "\n".join([plain(head, scores), "", *words]),
        lambda width: [table(head, scores, width), "", *words],
    )
    if "interrupted" in result:
        raise Interrupted(result["interrupted"])
