"""Writes docs/recipe.md, the page of all keys of a recipe, from the sections in the code.

python tools/recipe_reference.py

A key's meaning is the docstring below it. Keys that a run sets itself are left out.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from wafergpt import atomic_files, config
from wafergpt.config import TaskSettings
from wafergpt.config.registry import TASKS, imported

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"

OPENING = """# All keys of a recipe

A recipe is a YAML file with these sections, or the name of a shipped one. Any key can also be given
on the command line as `section.key=value`, and to Python's functions in the same form.
`wafergpt pretrain RECIPE --show` and `wafergpt finetune … --show` print a recipe with every key as
it would run. An empty default means that the run chooses or computes the value; keys that only the
run itself writes are not listed. The spaces of `wafergpt tune` are in a section `tune`
([tuning](tuning.md)). A recipe file may start with `extends: NAME` and set only what differs.

This page is made from the code by `python tools/recipe_reference.py`.
"""

SET_BY_THE_RUN = re.compile(r"set by (the run|prune)", re.IGNORECASE)

OTHERS = {int: "a number", float: "a number", str: "a text"}


def page() -> str:
    """Return the page as Markdown."""
    recipe = config.Recipe
    parts = [OPENING, _table("The recipe itself", recipe.__doc__, list(_rows(recipe, "")))]
    for name, field in recipe.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            section = field.annotation
            parts.append(_table(f"`{name}`", section.__doc__, list(_rows(section, f"{name}."))))
    for section, tasks in _task_sections().items():
        title = "of every task" if len(tasks) == len(TASKS) else f"of {_listed(tasks)}"
        if rows := list(_rows(section, "task.")):
            parts.append(_table(f"`task`, {title}", None, rows))
    return "\n".join(parts)


def _task_sections() -> dict[type[BaseModel], list[str]]:
    """Return the classes of the section ``task``, base classes first, with the tasks of each."""
    found: dict[type[BaseModel], list[str]] = {}
    for task, where in TASKS.items():
        for section in reversed(imported(where).Settings.__mro__):
            if issubclass(section, TaskSettings):
                found.setdefault(section, []).append(task)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _listed(tasks: list[str]) -> str:
    names = [f"`{task}`" for task in tasks]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _rows(section: type[BaseModel], above: str) -> Iterator[str]:
    """Yield the table rows of a section's own keys, and of the sections in it."""
    meanings = _meanings(section)
    for name, meaning in meanings.items():
        field = section.model_fields[name]
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, BaseModel):
            if above:
                yield from _rows(inner, f"{above}{name}.")
        elif name != "tune" and not SET_BY_THE_RUN.search(meaning):
            default = _default(field)
            if default == "`0`" and "if omitted" in meaning:
                default = "auto (`0`)"
            yield f"| `{above}{name}` | {default} | {_meaning(field, meaning)} |"


def _meanings(section: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings below a class' own keys; a key without one has an empty text."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    body, found = definition.body, {}
    for here, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name):
            name, text = here.target.id, ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = _markdown(str(after.value.value))
            # Each task's own name is its heading.
            own_name = name == "name" and issubclass(section, TaskSettings) and not text
            if name in section.model_fields and not own_name:
                found[name] = text
    return found


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    empty = value is None or value == "" or value == () or field.is_required()
    if isinstance(value, tuple):
        value = f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        value = str(value).lower()
    return "" if empty else f"`{value}`"


def _meaning(field: FieldInfo, meaning: str) -> str:
    text = meaning.replace("|", "\\|")
    leaves = list(_leaves(field.annotation))
    words = [f"`{value}`" for leaf in leaves for value in get_args(leaf)]
    others = [OTHERS[leaf] for leaf in leaves if leaf in OTHERS]
    choices = f"One of {', '.join(words + others)}." if len(words) > 1 else ""
    return " ".join(filter(None, (choices, text)))


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, but not those in a list; literals are one each."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            yield from _leaves(part)
    elif get_origin(annotation) is not tuple:
        yield annotation


def _table(title: str, about: str | None, rows: list[str]) -> str:
    opening = [f"## {title}", ""]
    if about:
        opening += [_markdown(about), ""]
    return "\n".join([*opening, "| key | default | meaning |", "|---|---|---|", *rows, ""])


def _markdown(docstring: str) -> str:
    """Return a docstring in one line, its code marked as Markdown does."""
    return re.sub(r"``([^`]*)``", r"`\1`", " ".join(docstring.split()))


if __name__ == "__main__":
    atomic_files.write_text(PAGE, page())
