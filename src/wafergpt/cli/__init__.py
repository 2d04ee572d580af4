"""The command line: one small file per verb, imported only when that verb is used."""

from __future__ import annotations

import importlib
import json
import keyword
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt import __version__, files
from wafergpt.cli.exit_codes import explain
from wafergpt.cli.streams import shows, steady_streams
from wafergpt.devices.limits import limit_threads
from wafergpt.distributed.launcher import LAUNCHED, leave_group
from wafergpt.errors import InputError, Interrupted, nearest
from wafergpt.logs import place
from wafergpt.logs import show as show_messages

if TYPE_CHECKING:
    from wafergpt.cli.tables import Screen

VERBS = {
    "prepare": "Turn raw text into a corpus of tokens.",
    "plan": "Find out what a training costs before it runs.",
    "mup": "Check µP, and tune small to train large.",
    "pretrain": "Train a language model on a corpus.",
    "tune": "Try settings of a training, and keep the best.",
    "check": "Check labelled rows before a fine-tuning.",
    "finetune": "Fine-tune a model for a task on labelled rows.",
    "predict": "Predict with a fine-tuned model.",
    "evaluate": "Measure how good a model is, and where it breaks.",
    "search": "Find texts with a model that was fine-tuned for embedding.",
    "generate": "Generate text with a language model.",
    "chat": "Talk with a model that was fine-tuned for dialogue.",
    "import": "Make a run from a Hugging Face folder.",
    "export": "Export a run to transformers, llama.cpp or onnxruntime.",
    "checkpoints": "List a run's checkpoints, or compare two.",
    "average": "Make a run from the mean of a run's checkpoints.",
    "prune": "Take weights out of a trained model.",
    "runs": "List the runs of a folder.",
    "report": "Write a run's page: curves, samples, confusion matrix.",
    "doctor": "Show what is installed, what works, and what is missing.",
    "demo": "Run the whole pipeline on film reviews in about five minutes.",
}


class HomePath(click.Path):
    """A path whose ``~`` is the home folder, which no shell expands in ``--out=~/x``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, in the requested type."""
        return super().convert(str(files.from_home(value)), param, ctx)


class Group(click.Group):
    """Verbs that print their help when none is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print the help and exit if there are no arguments."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)


class Verbs(Group):
    """Verbs whose modules are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a project."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of one verb."""
        if name not in VERBS:
            raise click.UsageError(f"no verb '{name}'{nearest(name, VERBS)}")
        # A module cannot have the name of a Python keyword.
        module = f"{name}_" if keyword.iskeyword(name) else name
        command = importlib.import_module(f"wafergpt.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB [ARGUMENTS]...",
    epilog="Example: wafergpt demo    Each verb: wafergpt VERB --help",
)
@click.version_option(__version__, prog_name="wafergpt")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train, fine-tune and use GPT language models with the Cerebras-GPT method."""


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names between commas."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return them."""
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
)

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    help="Where to compute.  [default: where it was trained, if available]",
)


def emit(result: dict[str, Any], as_json: bool, text: str, screen: Screen | None = None) -> None:
    """Print a verb's result.

    Args:
        result: printed as one JSON object if ``as_json``.
        as_json: whether ``--json`` was given.
        text: printed otherwise.
        screen: printed instead of ``text`` on a terminal.
    """
    if as_json:
        print(json_line(result))
    elif screen is not None and sys.stdout.isatty():
        from wafergpt.cli.tables import show

        show(screen)
    else:
        print(text)


def json_line(value: dict[str, Any] | None) -> str:
    """Return JSON in characters that stdout can encode."""
    # NaN is not JSON: a loss that is not finite is null.
    finite = files.finite(value)
    text = json.dumps(finite, ensure_ascii=False, default=str)
    return text if shows(text) else json.dumps(finite, default=str)


def main() -> None:
    """Run the command; turn each kind of failure into one line and an exit code."""
    limit_threads()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    with steady_streams():
        if not _may_be_one_of_several(arguments):
            # Variables that are left over from another program would silence this one.
            leave_group()
        show_messages()
        try:
            code = _run(arguments)
        except Exception as error:
            if debug:
                raise
            code = explain(error)
        if place()[1] > 1:
            # gloo's threads may still hold tensors and abort the interpreter's shutdown
            # (pytorch/pytorch#179291); everything is written by now.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def _may_be_one_of_several(arguments: list[str]) -> bool:
    """Return whether a launcher may have started this as one process of a training."""
    return LAUNCHED in os.environ or arguments[:1] in (["pretrain"], ["finetune"])


def _run(arguments: list[str]) -> int:
    if not _has_folder():
        raise InputError("the current folder no longer exists: change to another one (cd ~)")
    try:
        # Without standalone mode click returns an Exit's code, or the verb's return value.
        code = cli.main(arguments, prog_name="wafergpt", standalone_mode=False)
        sys.stdout.flush()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        # torchrun would restart a process that was asked to stop.
        return 0 if "TORCHELASTIC_RUN_ID" in os.environ else 130
    except BrokenPipeError:
        # The reader of stdout has closed it.
        return 1
    except (KeyboardInterrupt, Exception) as error:
        if not _is_interrupt(error):
            raise
        print("interrupted", file=sys.stderr)
        return 130
    return code if isinstance(code, int) else 0


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether an error is a Ctrl-C, or what a library made of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt | click.Abort):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error is not None


def _has_folder() -> bool:
    """Return whether the current folder exists; without it some libraries end the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True
