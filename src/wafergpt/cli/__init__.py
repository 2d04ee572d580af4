"""The command line: one small file a verb, imported only when that verb is used."""

from __future__ import annotations

import errno
import importlib
import json
import keyword
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt import __version__
from wafergpt.cli.streams import shows, steady_streams
from wafergpt.devices.limits import limit_threads
from wafergpt.errors import InputError, Interrupted, RunFailed, TeamLost, nearest
from wafergpt.parallel.launch import LAUNCHED, LOST
from wafergpt.progress import follows, place

if TYPE_CHECKING:
    from wafergpt.cli.tables import Screen

VERBS = {
    "prepare": "Turn raw text into a corpus of tokens.",
    "plan": "Say what a recipe will cost before it runs.",
    "mup": "Check µP, and tune small to train large.",
    "pretrain": "Train a language model on a corpus.",
    "finetune": "Teach a model a task from labelled rows.",
    "predict": "Put a fine-tuned model to work on texts.",
    "generate": "Let a language model write on.",
    "import": "Make a run of a Hugging Face folder.",
    "export": "Give a run to transformers or llama.cpp.",
    "checkpoints": "List a run's checkpoints, or compare two.",
    "average": "Make a run of the mean of a run's checkpoints.",
    "runs": "List the runs of a folder.",
    "report": "Write a run's page: curves, samples, confusion matrix.",
    "doctor": "Say what is here, what works, and what to install.",
    "demo": "The whole road on film reviews in five minutes.",
}


LONGEST_LINE = 4000
"""Characters of an error."""

_NO_SUCH_FILE = {
    errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES,
    errno.EPERM, errno.EROFS,
}  # fmt: skip


class Group(click.Group):
    """Verbs that print their help when none of them is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print the help, and end, if nothing was said."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)


class Verbs(Group):
    """Verbs whose modules are imported when they are called, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of one verb."""
        if name not in VERBS:
            raise click.UsageError(f"no verb '{name}'{nearest(name, VERBS)}")
        # No module can be called by a word of Python's own.
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
    """Train GPT language models the Cerebras-GPT way, and put them to work."""


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
)


def emit(result: dict[str, Any], as_json: bool, text: str, screen: Screen | None = None) -> None:
    """Print a verb's result: one JSON object, or on a terminal ``screen``, or else ``text``."""
    if as_json:
        print(json_line(result))
    elif screen is not None and sys.stdout.isatty():
        from wafergpt.cli.tables import show

        show(screen)
    else:
        print(text)


def json_line(value: dict[str, Any] | None) -> str:
    """Return JSON that stdout can show."""
    # NaN is no JSON: a loss that is not finite is null.
    finite = _finite(value)
    text = json.dumps(finite, ensure_ascii=False, default=str)
    return text if shows(text) else json.dumps(finite, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def main() -> None:
    """Run the command and turn each kind of failure into one line and its exit code."""
    limit_threads()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    with steady_streams():
        try:
            code = _run(arguments)
        except Exception as error:
            if debug:
                raise
            code = _explain(error)
        if place()[1] > 1:
            # gloo's threads may hold tensors still, and abort the interpreter that takes itself
            # apart (pytorch/pytorch#179291); all is written, and nothing is left to do.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if not _has_folder():
        raise InputError("the current folder is gone: go to one that is there (cd ~)")
    try:
        # Without its standalone mode click returns the code of an Exit, and what a verb returns.
        code = cli.main(arguments, prog_name="wafergpt", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        # torchrun would start again what was asked to stop.
        return 0 if "TORCHELASTIC_RUN_ID" in os.environ else 130
    except BrokenPipeError:
        # The reader of our stdout left.
        return 1
    return code if isinstance(code, int) else 0


def _has_folder() -> bool:
    """Say whether the current folder is there, without which some libraries end the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _explain(error: Exception) -> int:
    if isinstance(error, click.UsageError):
        text, code = error.format_message(), 2
        if error.ctx is not None:
            text += f" (see '{error.ctx.command_path} --help')"
    elif isinstance(error, InputError):
        text, code = str(error), 2
    elif isinstance(error, OSError) and error.errno in _NO_SUCH_FILE:
        named = f": {error.filename}" if error.filename is not None else ""
        text, code = f"{error.strerror}{named}", 2
    elif isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
        text, code = "the disk is full; everything saved before this is intact", 1
    elif isinstance(error, MemoryError):
        text, code = "there is not enough memory, or a limit of it (ulimit -v) is too low", 1
    elif isinstance(error, TeamLost) and LAUNCHED in os.environ:
        text, code = str(error), LOST
    elif isinstance(error, RunFailed | OSError):
        text, code = str(error), 1
    else:
        text = f"{type(error).__name__}: {error} (a fault of wafergpt; --debug shows where)"
        code = 1
    text = _printable(text)
    if not follows():
        print(f"error: {text}", file=sys.stderr)
    elif not isinstance(error, InputError | TeamLost):
        # What is wrong with the input, the leader says for all.
        print(f"process {place()[0]}: {text}", file=sys.stderr)
    return code


def _printable(text: str) -> str:
    """Return a text as one line of bounded length, without what a file could do to a terminal."""
    line = " ".join(text[:LONGEST_LINE].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
