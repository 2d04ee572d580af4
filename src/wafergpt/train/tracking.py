"""TensorBoard and Weights & Biases, beside metrics.jsonl."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

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
        self._writer: SummaryWriter = SummaryWriter(str(run.path / "tensorboard"))

    def log(self, row: Row) -> None:
        """Write each number of the row as a scalar."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class WandB:
    """A Weights & Biases run that continues under the same id after a resume."""

    def __init__(self, recipe: Recipe, run: Run) -> None:
        try:
            import wandb
        except ImportError:
            raise InputError("tracking.wandb needs wandb: pip install 'wafergpt[track]'") from None
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "wafergpt"),
            name=run.name,
            id=run.name,
            resume="allow",
            dir=str(run.path),
            config=recipe.model_dump(mode="json"),
        )

    def log(self, row: Row) -> None:
        """Send the row."""
        self._run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def trackers(recipe: Recipe, run: Run) -> list[Tracker]:
    """Open the trackers that the recipe names.

    Raises:
        InputError: if one is not installed.
    """
    result: list[Tracker] = []
    if recipe.tracking.tensorboard:
        result.append(TensorBoard(run))
    if recipe.tracking.wandb:
        result.append(WandB(recipe, run))
    return result
