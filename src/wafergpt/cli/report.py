"""``wafergpt report``: the page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.recipe import runs_option


@click.command(epilog="Example: wafergpt report demo")
@click.argument("run")
@click.option(
    "--out",
    type=HomePath(dir_okay=False, path_type=Path),
    help="The file to write.  [default: report.html in the run's folder]",
)
@click.option(
    "--self-contained", is_flag=True, help="Include the plotly script in the page (5 MB)."
)
@runs_option
@json_option
def command(run: str, out: Path | None, self_contained: bool, runs: Path, as_json: bool) -> None:
    """Write a run's page: curves, samples, confusion matrix.

    RUN is a name below --runs or a path, finished or not. The page is small and needs no network:
    all pages share one plotly script in the folder of runs. With --self-contained the script is in
    the page: one file to send.
    """
    from wafergpt.reports import write_report
    from wafergpt.reports.formatting import size
    from wafergpt.runs.run import Run

    found = Run.find(run, runs)
    page = write_report(found, out, self_contained)
    written = page.stat().st_size
    emit(
        {"run": str(found.path), "report": str(page), "bytes": written},
        as_json,
        f"{page} ({size(written)}): open it in a browser",
    )
