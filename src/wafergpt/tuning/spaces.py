"""What a setting may be in a study: a range or a list of values, and good ones by default."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wafergpt.config import Recipe, known_keys
from wafergpt.config.files import flat
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.errors import InputError, nearest
from wafergpt.files import short

if TYPE_CHECKING:
    import optuna

DIGITS = 3
"""Of a tuned number, and of what it is more than the low end: a search is not more precise."""

MOST = 10_000
"""Combinations of a grid: it is no search that has more."""

TRIED = 100
"""Combinations with other spaces that a setting is tried in before it is impossible."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LISTS = re.compile(r"\s*\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*\s*")
_RANGE = re.compile(rf"\s*({_NUMBER})(%?)\s*\.\.\s*({_NUMBER})(%?)\s*(?::\s*(\w+)\s*)?")


@dataclass(frozen=True)
class Space:
    """The values that a key of the recipe may have.

    Attributes:
        key: such as ``optimizer.lr``.
        text: as it was written: ``low..high``, ``low..high:log`` or ``a,b,c``; of a key that has a
            list, ``[a],[a,b]``.
        low: of a range.
        high: of a range.
        log: whether the range is searched on a logarithmic scale.
        whole: whether its numbers are whole: those of the key are, or both ends are written so,
            and more than one apart.
        unit: what follows its numbers: ``%`` or nothing.
        choices: of several values, as written; empty for a range.
    """

    key: str
    text: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    unit: str = ""
    choices: tuple[str, ...] = ()

    @classmethod
    def read(cls, key: str, text: str, whole: bool = False) -> Space:
        """Read a space.

        Args:
            key: of the recipe.
            text: as typed.
            whole: whether the key's numbers are.

        Raises:
            InputError: if it is none, or is empty.
        """
        found = None if "..." in text else _RANGE.fullmatch(text)
        if found:
            first, unit, second, other, scale = found.groups()
            if scale not in (None, "log"):
                raise InputError(f"{key}={text}: ':{scale}' is no scale; write :log or nothing")
            if unit and not other:
                raise InputError(f"{key}={text}: both ends have the same unit")
            low, high = float(first), float(second)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InputError(f"{key}={text} is empty: its low end comes first")
            if scale and low <= 0:
                raise InputError(f"{key}={text}: a logarithmic scale starts above 0")
            if whole and not (low.is_integer() and high.is_integer()):
                raise InputError(f"{key}={text}: its numbers are whole")
            written = not re.search(r"[.eE]", first + second) and (high - low > 1 or bool(other))
            return cls(key, text, low, high, bool(scale), whole or written, other)
        choices = choices_of(text)
        if ".." in text or len(choices) < 2 or "" in choices:
            raise InputError(
                f"{key}={short(text)} is no space: write low..high, low..high:log or a,b,c, or "
                "[a],[a,b] of a key that has a list"
            )
        return cls(key, text, choices=choices)

    def ends(self) -> Sequence[str]:
        """Return the values that show whether the key can have them: both ends, or all choices."""
        return self.choices or (self.written(self.low), self.written(self.high))

    def written(self, value: float | str) -> str:
        """Return a value of the space as it is written in an override."""
        if isinstance(value, str):
            return value
        if self.whole:
            return f"{value:.0f}{self.unit}"
        largest = max(abs(self.low), abs(self.high))
        digits = DIGITS + math.floor(math.log10(largest / (self.high - self.low)))
        rounded = float(f"{value:.{max(DIGITS, digits)}g}")
        return f"{min(max(rounded, self.low), self.high)!r}{self.unit}"

    def drawn(self, trial: optuna.Trial) -> str:
        """Let a trial choose a value, and return it as it is written."""
        if self.choices:
            return self.written(trial.suggest_categorical(self.key, self.choices))
        if self.whole:
            low, high = int(self.low), int(self.high)
            return self.written(trial.suggest_int(self.key, low, high, log=self.log))
        return self.written(trial.suggest_float(self.key, self.low, self.high, log=self.log))

    def parameter(self, value: Any, read: Callable[[str], Any]) -> float | str | None:
        """Return a recipe's value as Optuna knows it; None if it is not in the space.

        Args:
            value: of the key, in a recipe.
            read: returns what the recipe's value is for one that is written.
        """
        if self.choices:
            return next((text for text in self.choices if read(text) == value), None)
        if isinstance(value, str):
            unit = len(value) - len(self.unit)
            if not re.fullmatch(_NUMBER, value[:unit]) or value[unit:] != self.unit:
                return None
            value = float(value[:unit])
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return None
        return int(value) if self.whole else float(value)


def choices_of(text: str) -> tuple[str, ...]:
    """Return the different values of ``a,b,c`` or ``[a],[a,b]``, in their order, without spaces."""
    if _LISTS.fullmatch(text):
        parts = re.findall(r"\[[^\]]*\]", re.sub(r"\s", "", text))
    else:
        parts = [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys(parts))


TUNED = ("model.", "train.", "optimizer.", "schedule.", "lora.", "sparsity.", "task.")
"""Sections whose keys may be tuned."""

SAME_IN_ALL = (
    "train.teacher", "task.name", "task.held_out", "task.folds", "task.fold", "task.multi",
    "task.similar_labels", "task.repair",
)  # fmt: skip
"""Keys of these that say what trials learn and are compared by."""


def is_space(argument: str, task: str) -> bool:
    """Return whether ``KEY=TEXT`` names a space, not a value."""
    key, _, text = argument.partition("=")
    kind = known_keys(task).get(key.strip())
    if kind is None or kind.kind in ("path", "text"):
        return False
    if kind.several:
        # One list is a value.
        return bool(_LISTS.fullmatch(text)) and text.count("[") > 1
    return not text.startswith(("[", "{")) and (".." in text or "," in text)


def read_spaces(
    texts: Mapping[str, str], recipe: Recipe, changed: Callable[[Sequence[str]], Recipe]
) -> dict[str, Space]:
    """Read spaces and check that the recipe can have their values.

    Args:
        texts: by key.
        recipe: that is tuned.
        changed: returns it with overrides.

    Raises:
        InputError: on an unknown key, with the nearest one, or an impossible value.
    """
    task = DEFAULT_TASK if recipe.task is None else recipe.task.name
    keys, spaces = known_keys(task), {}
    for key, text in texts.items():
        kind = keys.get(key)
        if kind is None:
            raise InputError(f"no key '{key}' to tune{nearest(key, keys)}")
        fixed = key in SAME_IN_ALL or not key.startswith(TUNED)
        if fixed or kind.kind in ("path", "text"):
            raise InputError(f"{key} is no setting that can be tuned")
        if kind.several and not _LISTS.fullmatch(text):
            raise InputError(f"{key}={short(text)}: the key has a list; write [a],[a,b]")
        spaces[key] = Space.read(key, text, kind.whole)
    for key, space in spaces.items():
        others = [other for other in spaces.values() if other.key != key]
        for value in space.ends():
            _require_possible(f"{key}={value}", space, others, changed)
    return spaces


def _require_possible(
    setting: str,
    space: Space,
    others: Sequence[Space],
    changed: Callable[[Sequence[str]], Recipe],
) -> None:
    """Require that the recipe can have a setting as it stands, or with ends of other spaces."""
    try:
        changed([setting])
        return
    except InputError as error:
        reason = error
    ends = [[f"{other.key}={end}" for end in other.ends()] for other in others]
    for beside in itertools.islice(itertools.product(*ends), TRIED):
        with suppress(InputError):
            changed([setting, *beside])
            return
    raise InputError(f"{space.key}={space.text} is impossible: {reason}")


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the last part of each key, or all of it where another key has the same."""
    last = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(last.values())
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def combinations(spaces: Mapping[str, Space]) -> list[dict[str, str]]:
    """Return every combination of lists of values, in their order.

    Raises:
        InputError: if a space is a range, or there are too many.
    """
    ranges = [space.key for space in spaces.values() if not space.choices]
    if ranges:
        raise InputError(f"a grid needs lists of values: {ranges[0]} is a range; write a,b,c")
    count = math.prod(len(space.choices) for space in spaces.values())
    if count > MOST:
        raise InputError(f"a grid of {count:,} combinations is no search: {MOST:,} at most")
    values = itertools.product(*(space.choices for space in spaces.values()))
    return [dict(zip(spaces, combination, strict=True)) for combination in values]


FACTORS = {"optimizer.lr": 4.0, "optimizer.task_ngram_lr": 4.0, "train.epochs": 3.0}
"""By how much a setting of a fine-tuning is searched on both sides of what was chosen."""

WIDE = 8.0
"""The same for the learning rate of a pretraining."""

OF_MUP = ("optimizer.lr", "model.init_std", "model.embedding_scale", "model.output_scale")
"""Settings that µP transfers from a narrow network to a wide one."""

WIDEST = 16.0
"""By how much they are searched on both sides of the recipe's."""


def default_spaces(recipe: Recipe) -> dict[str, str]:
    """Return the spaces of a study that names none.

    Args:
        recipe: as it would be trained without tuning.

    Returns:
        Texts of spaces by key, around the recipe's values.
    """
    values = flat(recipe.model_dump(mode="json"))
    if recipe.task is None:
        if recipe.model.parametrization == "mup":
            return _around(values, dict.fromkeys(OF_MUP, WIDE))
        found = _around(values, {"optimizer.lr": WIDE})
        found["schedule.warmup"] = "1%,5%,10%"
        if recipe.optimizer.name == "adamw":
            found["optimizer.weight_decay"] = "0.01..0.3:log"
        return found
    names = dict(FACTORS)
    if not recipe.task.table_key:
        names.pop("optimizer.task_ngram_lr")
    if not recipe.train.epochs:
        names.pop("train.epochs")
    return {**_around(values, names), "model.dropout": "0.0..0.4"}


def _around(values: Mapping[str, Any], factors: Mapping[str, float]) -> dict[str, str]:
    found = {}
    for key, factor in factors.items():
        low, high = (float(f"{values[key] * by:.{DIGITS}g}") for by in (1 / factor, factor))
        found[key] = f"{low!r}..{high!r}:log"
    return found


def spaces_of_mup(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Return the spaces of settings that µP transfers, as overrides.

    Args:
        recipe: of the wide training.
        names: last parts of keys of ``OF_MUP``.

    Raises:
        InputError: if a name is none of them.
    """
    keys = {key.rpartition(".")[2]: key for key in OF_MUP}
    for name in names:
        if name not in keys:
            raise InputError(f"no setting '{name}' to tune{nearest(name, keys)}")
    values = flat(recipe.model_dump(mode="json"))
    found = _around(values, {keys[name]: WIDEST for name in names})
    return [f"{key}={text}" for key, text in found.items()]
