"""TensorBoard and Weights & Biases, beside metrics.jsonl."""

from __future__ import annotations

import os
import shlex
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.runs.run import Run
from wafergpt.train.callbacks import Tracker
from wafergpt.train.state import Row

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Event files in the run's ``tensorboard/`` folder."""

    def __init__(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "tracking.tensorboard needs tensorboard: pip install 'wafergpt[track]'"
            ) from None
        self._opened = partial(SummaryWriter, str(run.path / "tensorboard"))
        self._writer: SummaryWriter | None = None

    def log(self, row: Row) -> None:
        """Write each number of the row as a scalar."""
        if self._writer is None:
            # After a resume, steps that are made again replace those before.
            self._writer = self._opened(purge_step=row["step"])
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush the event file."""
        if self._writer is not None:
            self._writer.close()


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class WandB:
    """A Weights & Biases run that continues under the same id after a resume."""

    def __init__(self, recipe: Recipe, run: Run) -> None:
        try:
            import wandb
        except ImportError:
            raise InputError("tracking.wandb needs wandb: pip install 'wafergpt[track]'") from None
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "wafergpt"),
                name=run.name,
                id=_id_of(run),
                resume="allow",
                dir=str(run.path),
                config=recipe.model_dump(mode="json"),
            )
        except (wandb.Error, ValidationError) as error:
            # pydantic's is of a variable such as WANDB_MODE.
            reason = str(error).rstrip(".") if isinstance(error, wandb.Error) else _first_of(error)
            raise InputError(
                f"Weights & Biases: {reason}. It can also be written here with "
                "WANDB_MODE=offline, or left out with tracking.wandb=false; "
                f"--resume {shlex.quote(str(run.path))} goes on then"
            ) from None

    def log(self, row: Row) -> None:
        """Send the row."""
        self._run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _id_of(run: Run) -> str:
    """Return what a run is called there; its name alone may be that of others in a project."""
    known = run.read("wandb")
    if known is None:
        # One that was begun by an older version has its name.
        known = {"id": run.name if run.metrics() else f"{run.name}-{uuid.uuid4().hex[:8]}"}
        run.write("wandb", known)
    return str(known["id"])


def trackers(recipe: Recipe, run: Run) -> list[Tracker]:
    """Open the trackers that the recipe names.

    Raises:
        InputError: if one is not installed, or refuses its settings.
    """
    result: list[Tracker] = []
    if recipe.tracking.tensorboard:
        result.append(TensorBoard(run))
    if recipe.tracking.wandb:
        result.append(WandB(recipe, run))
    return result
