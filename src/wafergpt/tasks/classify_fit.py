"""What a classifier settles by its outputs for validation rows, once, at the end of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.calibration import fitted_temperature
from wafergpt.evaluation.selective import threshold_for
from wafergpt.tasks.ngram_scores import fitted_factors, mixed
from wafergpt.tasks.samples import Outputs

if TYPE_CHECKING:
    from wafergpt.tasks.classify import Classify


def fitted(task: Classify, outputs: Outputs, references: Any) -> tuple[dict[str, Any], Outputs]:
    """Fit factors, temperature, offsets and a threshold, each on top of those before it.

    Args:
        task: of the training.
        outputs: for validation rows.
        references: their classes; -1 for rows of none.

    Returns:
        Values of the section ``task`` by key, and the outputs that they lead to.
    """
    import torch

    values: dict[str, Any] = {}
    inside = references >= 0 if task.settings.out_of_scope else slice(None)
    if task.settings.ngrams != "none":
        scores = torch.from_numpy(outputs["scores"]).transpose(0, 1)
        known = scores.double()[:, inside], torch.from_numpy(references[inside])
        values["factors"] = fitted_factors(*known, task.loss_of)
        found = task.answers(mixed(scores, values["factors"]))
        outputs = {**outputs, **{k: v.numpy() for k, v in found.items()}}
    if task.settings.calibrate:
        logits = outputs["logits"]
        temperature = fitted_temperature(logits[inside], references[inside].astype(np.int64))
        values["temperature"] = temperature
        divided = torch.from_numpy(logits / temperature).softmax(1).numpy()
        outputs = {**outputs, "probabilities": divided}
    if task.decision_metric:
        probabilities = outputs["probabilities"]
        offsets = task.fitted_offsets(probabilities[inside], references[inside])
        outputs = {name: found for name, found in outputs.items() if name != "decided"}
        values["offsets"] = tuple(offsets or ())
        # Without offsets too, so that the outputs of several folds have the same names.
        offsets = offsets or [0.0] * probabilities.shape[1]
        outputs["decided"] = task.decided(torch.from_numpy(probabilities), offsets).numpy()
    if task.settings.out_of_scope:
        outputs = {**outputs, "in_scope": references >= 0}
    if task.settings.abstain is not None:
        values["abstain_below"] = threshold_of(outputs, task.settings.abstain)
        answered = confidence_of(outputs) >= values["abstain_below"]
        outputs = {**outputs, "answered": answered}
    return values, outputs


def threshold_of(outputs: Outputs, coverage: float) -> float:
    """Return the probability from which on a share of rows is answered.

    Args:
        outputs: for validation rows, as ``fitted`` returned them.
        coverage: the share of those in scope.

    Returns:
        The threshold.
    """
    confidence = confidence_of(outputs)
    return threshold_for(confidence[outputs.get("in_scope", slice(None))], coverage)


def decided_of(outputs: Outputs) -> NDArray[np.int64]:
    """Return the class ``[n]`` that is answered."""
    return np.asarray(outputs.get("decided", outputs["probabilities"].argmax(1)))


def confidence_of(outputs: Outputs) -> NDArray[np.float64]:
    """Return the probability ``[n]`` of the class that is answered."""
    probabilities = outputs["probabilities"]
    return np.asarray(probabilities[np.arange(len(probabilities)), decided_of(outputs)])
