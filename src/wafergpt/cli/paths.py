"""Paths on the command line."""

from __future__ import annotations

from typing import Any

import click

from wafergpt import files


class HomePath(click.Path):
    """A path whose ``~`` is the home folder: no shell sees to it in ``--out=~/x``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, of the type that was asked for."""
        return super().convert(str(files.from_home(value)), param, ctx)
