"""What is wrong with labelled rows before anything is trained on them.

Texts are the same if they differ in case, white space and Unicode normalization alone. They are
compared by a hash of 64 bits, so that a million texts take a few bytes each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wafergpt.data.labelled_split import Rows, text_keys
from wafergpt.data.text_columns import BETWEEN, shown
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.files import short

MOST_OF_ONE = 0.9
"""A class with this share of the training rows leaves little to learn of the others."""

NEARLY_ALL = 0.9
"""Texts of this share decide what a column is."""

ENOUGH = 20
"""Fewer rows say nothing of a column."""

LEAST_LABEL = 3
"""Characters of a label that is looked for in texts; a shorter one is found by chance."""

_ID = re.compile(r"[\W_]*(?=[0-9a-f\W_]*\d)[0-9a-f\W_]+", re.IGNORECASE)
"""Numbers, dates, hashes: a digit, and no letter beyond f."""


@dataclass(frozen=True)
class Finding:
    """Something about labelled rows that a person should know.

    Attributes:
        kind: ``repeated``, ``across``, ``contradictory``, ``labels``, ``share``, ``ids``, ``leak``
            or ``long``.
        text: it, for people.
        count: how many rows; for ``contradictory``, texts.
        serious: whether a metric or the training would be wrong, not only less good.
    """

    kind: str
    text: str
    count: int
    serious: bool


class RowChecks:
    """The rows of all splits, compared with each other.

    Args:
        tables: the rows of ``train``, and of ``validation`` and ``test`` where there are any.

    Attributes:
        rows: how many each split has.
        distinct: different texts of each.
        in_train: rows of the others whose text is in ``train``.
    """

    def __init__(self, tables: Mapping[str, Rows]) -> None:
        self._tables = tables
        self._keys = {name: text_keys(table.texts) for name, table in tables.items()}
        self.rows = {name: len(keys) for name, keys in self._keys.items()}
        self.distinct = {name: len(np.unique(keys)) for name, keys in self._keys.items()}
        self._shared = {
            name: np.isin(keys, self._keys["train"])
            for name, keys in self._keys.items()
            if name != "train"
        }
        self.in_train = {name: int(shared.sum()) for name, shared in self._shared.items()}

    def repeated(self) -> Iterator[Finding]:
        """Find texts that a split has more than once."""
        for name, count in self.rows.items():
            if more := count - self.distinct[name]:
                yield Finding(
                    "repeated", f"{more:,} of {count:,} {name} rows repeat a text", more, False
                )

    def across(self) -> Iterator[Finding]:
        """Find texts of the other splits that are in training, or validation texts in test."""
        pairs = [(name, "train") for name in self._shared]
        if {"validation", "test"} <= self._keys.keys():
            pairs.append(("test", "validation"))
        for name, other in pairs:
            shared = np.isin(self._keys[name], self._keys[other])
            if not (count := int(shared.sum())):
                continue
            row = int(shared.argmax())
            first = int((self._keys[other] == self._keys[name][row]).argmax())
            yield Finding(
                "across",
                f"{count:,} of {len(shared):,} {name} texts are also in {other} (first: "
                f"{self._tables[name].place(row)}, and {self._tables[other].place(first)})",
                count,
                True,
            )

    def contradictory(self) -> Iterator[Finding]:
        """Find texts that have several labels, in one split or in several."""
        ids: dict[str, int] = {}
        labels = np.fromiter(
            (ids.setdefault(x, len(ids)) for table in self._tables.values() for x in table.labels),
            np.int64,
        )
        keys = np.concatenate(list(self._keys.values()))
        order = np.lexsort((labels, keys))
        same = keys[order][1:] == keys[order][:-1]
        differ = same & (labels[order][1:] != labels[order][:-1])
        texts = np.unique(keys[order][1:][differ])
        if not len(texts):
            return
        places = np.flatnonzero(keys == keys[np.isin(keys, texts).argmax()])
        two = [places[0], places[(labels[places] != labels[places[0]]).argmax()]]
        shown = " and ".join(self._labelled(int(row)) for row in two)
        yield Finding(
            "contradictory",
            f"{len(texts):,} text{'s have' if len(texts) > 1 else ' has'} several labels (first: "
            f"{shown})",
            len(texts),
            True,
        )

    def _labelled(self, row: int) -> str:
        """Return the label and the place of a row, counted over all splits."""
        for table in self._tables.values():
            if row < len(table.labels):
                return f"{short(table.labels[row].replace(BETWEEN, '; '))} in {table.place(row)}"
            row -= len(table.labels)
        raise IndexError(row)


def largest_share(classes: Sequence[str], rows: int) -> Iterator[Finding]:
    """Find one class that nearly all training rows have.

    Args:
        classes: of the rows, any number of each.
        rows: how many there are.
    """
    counts = Counter(classes).most_common(1)
    for name, count in counts:
        if rows >= ENOUGH and count >= MOST_OF_ONE * rows:
            share = f"{count / rows:.1%}"
            yield Finding(
                "share", f"{share} of the train rows have the label {short(name)}", count, False
            )


def suspicious_texts(texts: Sequence[str], labels: Sequence[str]) -> Iterator[Finding]:
    """Find a column of texts that holds ids, or the labels themselves.

    Args:
        texts: of the training rows.
        labels: of the rows; none if they are no names of classes.
    """
    if len(texts) < ENOUGH:
        return
    ids = sum(_ID.fullmatch(text) is not None for text in texts)
    if ids >= NEARLY_ALL * len(texts):
        yield Finding(
            "ids",
            f"{ids:,} of {len(texts):,} train texts are numbers or ids, such as "
            f"{short(shown(texts[0]))}: task.text=COLUMN names another column",
            ids,
            True,
        )
    named = [len(x) >= LEAST_LABEL and any(map(str.isalpha, x)) for x in labels]
    leaks = sum(
        found and label.casefold() in text.casefold()
        for found, text, label in zip(named, texts, labels, strict=False)
    )
    if leaks >= NEARLY_ALL * len(texts):
        yield Finding(
            "leak",
            f"{leaks:,} of {len(texts):,} train texts contain their own label, such as "
            f"{short(labels[0])}: a model would learn to copy it",
            leaks,
            True,
        )


def too_long(
    name: str, texts: Sequence[str], tokenizer: Tokenizer, limit: int
) -> Iterator[Finding]:
    """Find texts of more tokens than a model reads.

    Args:
        name: of the split.
        texts: of its rows.
        tokenizer: of the model.
        limit: tokens at most.
    """
    # A token has at least a byte.
    long = [text for text in texts if len(text.encode("utf-8", "surrogatepass")) > limit]
    if count := sum(len(tokens) > limit for tokens in tokenizer.encode_batch(long)):
        yield Finding(
            "long",
            f"{count:,} of {len(texts):,} {name} texts are longer than {limit:,} tokens, and would "
            "be cut",
            count,
            False,
        )


def in_short(tables: Mapping[str, Rows], one_answer: bool) -> list[str]:
    """Return one line on what makes metrics wrong, if anything does.

    Args:
        tables: the rows of ``train``, and of ``validation`` and ``test`` where there are any.
        one_answer: whether a text has one right answer.
    """
    checks = RowChecks(tables)
    found = [*checks.across(), *(checks.contradictory() if one_answer else ())]
    if not found:
        return []
    return [f"warning: {'; '.join(one.text for one in found)}: wafergpt check says more"]
