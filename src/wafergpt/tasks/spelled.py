"""Texts as a task reads them that puts mistyped words right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wafergpt.data.spelling import Spelling
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.tokenizer_files import SPELLING
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.progress import working


def with_spelling(
    tokenizer: Tokenizer, source: Tokenizer | None, texts: Iterable[str]
) -> Tokenizer:
    """Learn the words that texts are read with.

    Args:
        tokenizer: that the task reads with.
        source: of the run to start from, whose words stay known; None if there is none.
        texts: of the training.

    Returns:
        The tokenizer with the words.
    """
    with working("learning the words"):
        # A tokenizer of the same texts has parts of words among its tokens.
        spelling = Spelling.of(texts, [] if source is None else tokenizer.words())
    if source is not None and source.spelling is not None:
        spelling = source.spelling.merged(spelling)
    if not spelling.can_correct:
        say(
            "warning: task.spelling corrects no word: no long one of letters is in five of the "
            "training texts"
        )
    return tokenizer.with_spelling(spelling)


def spelled(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Return texts with their mistyped words put right.

    Args:
        texts: any.
        tokenizer: of a run that does so.

    Returns:
        As many texts.

    Raises:
        InputError: if the run's words are missing.
    """
    if tokenizer.spelling is None:
        raise InputError(
            f"the run's {SPELLING}, the words that it reads texts with, is missing: copy it from "
            "where the run was trained"
        )
    return [*map(tokenizer.spelling, texts)]
