"""``wafergpt chat``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wafergpt.cli import device_option, emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.streams import legible
from wafergpt.logs import say
from wafergpt.progress import working

if TYPE_CHECKING:
    from wafergpt.inference.conversation import Conversation

HELP = (
    "/reset forgets the conversation · /system TEXT sets the first message · /history shows all · "
    "/quit or Ctrl-D ends, Ctrl-C stops a reply"
)


@click.command("chat", epilog="Example: wafergpt chat desk --temperature 0.3")
@click.argument("run")
@click.option("--system", default="", help="A message before all others.")
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True,
              help="Maximum tokens of a reply.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True,
              help="Sampling temperature; 0 always takes the most likely token.")  # fmt: skip
@click.option("--top-p", type=click.FloatRange(0, 1), default=0.95, show_default=True,
              help="Choose among the likeliest tokens that together reach this.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@device_option
@runs_option
@json_option
def command(
    run: str,
    system: str,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    device: str,
    runs: Path,
    as_json: bool,
) -> None:
    """Talk with a model that was fine-tuned for dialogue.

    It reads a line, and prints the reply as it is generated. From a pipe each line is a message,
    and each reply a line.
    """
    from wafergpt.runs.run import Run
    from wafergpt.tasks.dialogue import require_dialogue

    found = Run.find(run, runs)
    require_dialogue(found)
    with working("loading torch"):
        from wafergpt.decoding.generator import Sampling
        from wafergpt.inference.conversation import Conversation

    conversation = Conversation.load(found, device)
    conversation.system = system.strip()
    conversation.sampling = Sampling(max_tokens, temperature, top_p=top_p, seed=seed)
    talks = sys.stdin.isatty()
    if talks:
        say(HELP)
    while (line := _line(talks)) is not None:
        text = line.strip()
        if text.startswith("/"):
            if text in ("/quit", "/exit"):
                break
            _obey(conversation, text)
        elif text:
            _reply(conversation, text, as_json)
    if as_json:
        messages = [{"role": m.role, "content": m.content} for m in conversation.all_messages]
        emit({"messages": messages}, as_json, "")


def _line(talks: bool) -> str | None:
    """Return the next line, or None at the end."""
    try:
        if talks:
            return input("> ")
        # Bytes that are no text must not end a conversation.
        return sys.stdin.buffer.readline().decode(errors="replace") or None
    except (EOFError, KeyboardInterrupt):
        if talks:
            print()
        return None


def _obey(conversation: Conversation, text: str) -> None:
    name, _, rest = text.partition(" ")
    if name == "/reset":
        conversation.reset()
        say("the conversation is forgotten")
    elif name == "/system":
        conversation.system = rest.strip()
        conversation.reset()
        say(f"a new conversation, with the system message: {conversation.system or '(none)'}")
    elif name == "/history":
        for message in conversation.all_messages:
            say(f"{message.role}: {message.content}")
    else:
        say(f"there is no {name}: {HELP}")


def _reply(conversation: Conversation, text: str, as_json: bool) -> None:
    """Print the reply piece by piece; Ctrl-C ends it, and what was written is kept."""
    reply = conversation.reply(text)
    try:
        for piece in reply:
            if not as_json:
                print(legible(piece.replace("\n", " ")), end="", flush=True)
    except KeyboardInterrupt:
        reply.close()
    if not as_json:
        print(flush=True)
