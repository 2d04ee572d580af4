"""``wafergpt demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.paths import HomePath
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.tables import Column, plain, table
from wafergpt.progress import working
from wafergpt.run import Run, command_line

COLUMNS = (
    Column("", least=10),
    Column("accuracy", right=True),
    Column("loss", right=True),
    Column("time", right=True),
)
TITLES = {"gpt": "GPT", "bilstm": "bidirectional LSTM", "tfidf": "TF-IDF + regression"}


@click.command("demo", epilog="Example: wafergpt demo --data reviews.csv --label sentiment")
@click.option("--data", type=HomePath(path_type=Path), help="Your own labelled rows.")
@click.option("--text", default="text", show_default=True, help="The text column of --data.")
@click.option("--label", default="label", show_default=True, help="The label column of --data.")
@runs_option
@json_option
def command(data: Path | None, text: str, label: str, runs: Path, as_json: bool) -> None:
    """The whole road on film reviews in five minutes."""
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
    cells = [_cells(title, result[kind]) for kind, title in TITLES.items()]
    emit(
        result,
        as_json,
        "\n".join([plain(COLUMNS, cells), "", *words]),
        lambda width: [table(COLUMNS, cells, width), "", *words],
    )


def _cells(title: str, row: Mapping[str, float]) -> tuple[str, ...]:
    from wafergpt.progress import duration

    return (
        title,
        f"{row['accuracy']:.4f}",
        f"{row['loss']:.4f}",
        duration(row["seconds"]),
    )
