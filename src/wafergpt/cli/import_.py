"""``wafergpt import``."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.stopping import stopped_by_signals


@click.command("import", epilog="Example: wafergpt import Cerebras-GPT-111M --name cerebras-111m")
@click.argument("folder", type=HomePath(path_type=Path))
@click.option("--name", required=True, help="Name of the new run.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="KEY",
    help="Ignore an unknown setting of config.json; repeatable.",
)
@runs_option
@json_option
def command(folder: Path, name: str, ignore: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Make a run from a Hugging Face folder of a GPT-2.

    FOLDER holds config.json, safetensors and, if there is one, the tokenizer. Nothing is unpickled.
    """
    from wafergpt.api import import_model
    from wafergpt.cli.next_commands import at_work

    with stopped_by_signals():
        run = import_model(folder, name, runs, ignore)
    recipe, result = run.recipe, run.read("result")
    text = f"{run.path}: {result['parameters']:,} parameters"
    if run.tokenizer.is_file():
        text += f"\nnext: {at_work(run)}"
    else:
        text += (
            "; without a tokenizer it can be exported, but not used on texts: for that, put "
            "tokenizer.json beside config.json and import the folder again"
        )
    emit(result | {"model": recipe.model.model_dump(mode="json")}, as_json, text)
