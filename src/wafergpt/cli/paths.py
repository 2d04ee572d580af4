"""Paths on the command line."""

from __future__ import annotations

from typing import Any

import click

from wafergpt import files


class HomePath(click.Path):
    """A path whose ``~`` is the home folder, which no shell expands in ``--out=~/x``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, in the requested type."""
        return super().convert(str(files.from_home(value)), param, ctx)
