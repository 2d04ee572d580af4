"""How long a training takes, by what takes the time."""

from __future__ import annotations

from dataclasses import asdict, dataclass

PARTS = {
    "startup": "start-up", "compiling": "compiling", "updates": "updates",
    "evaluation": "evaluations", "saving": "saving", "final": "final evaluation",
}  # fmt: skip
"""Names of the parts for people."""


@dataclass(frozen=True)
class Duration:
    """Seconds of a training, from the start of the command to its result.

    Attributes:
        startup: loading torch, reading and encoding the data, making the network, timing updates.
        compiling: by torch.compile.
        updates: forward, backward and optimizer.
        evaluation: on validation data, during training.
        saving: time that training waits for checkpoints.
        final: evaluation of the best checkpoint at the end, where the task has labelled rows.
    """

    startup: float = 0.0
    compiling: float = 0.0
    updates: float = 0.0
    evaluation: float = 0.0
    saving: float = 0.0
    final: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(asdict(self).values()))

    def to_dict(self) -> dict[str, float]:
        """Return the parts as JSON."""
        return asdict(self)
