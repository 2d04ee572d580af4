"""``wafergpt demo``."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.paths import HomePath
from wafergpt.cli.recipe import runs_option
from wafergpt.progress import working


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

    result = demo(data, runs, text, label)
    lines = [
        f"{'':22}{'accuracy':>10}{'loss':>9}{'time':>9}",
        *(
            f"{title:22}{row['accuracy']:>10.4f}{row['loss']:>9.4f}{row['seconds']:>8.0f}s"
            for title, row in (
                ("GPT", result["gpt"]),
                ("bidirectional LSTM", result["bilstm"]),
                ("TF-IDF + regression", result["tfidf"]),
            )
        ),
        "",
        f"the report: {result['report']}",
        "next: wafergpt predict demo --text 'What a film!'",
        "      wafergpt generate demo-pretrained --prompt 'This film'",
        "      wafergpt runs",
    ]
    emit(result, as_json, "\n".join(lines))
