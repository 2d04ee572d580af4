"""The bidirectional LSTM that the worked example starts from.

The 10,000 most frequent words; texts cut or padded to 256 words, both at the front, as Keras'
``pad_sequences`` does by default; embedding 64 → bidirectional LSTM 64 → dense 64, ReLU → one
sigmoid (a softmax where there are more than two labels); cross-entropy; Adam at 1e-3; 10 epochs.
Where words are not spaced, characters take the place of words.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.baselines.result import BaselineResult, Decide, classes_answered
from wafergpt.baselines.units import Units
from wafergpt.data.labelled_batches import LabelledBatches, unlabelled
from wafergpt.data.labelled_rows import Table, encode_labels, label_names
from wafergpt.evaluation.metrics import ClassificationMetrics, classification_metrics
from wafergpt.progress import Bar, progress, working

if TYPE_CHECKING:
    from torch import Tensor, nn

WORDS, LENGTH, WIDTH, EPOCHS, BATCH, LEARNING_RATE = 10_000, 256, 64, 10, 64, 1e-3
EVALUATIONS_PER_EPOCH = 4
"""Validations in an epoch when there is a time limit: the best one may lie within it."""

PADDING, UNKNOWN = 0, 1


class Words:
    """The most frequent units of some texts, numbered from 2; 0 pads, 1 is any other unit."""

    def __init__(self, texts: Sequence[str], units: Units) -> None:
        counts = Counter(word for text in texts for word in units.split(text))
        frequent = [word for word, _ in counts.most_common(WORDS)]
        self._numbers = {word: number for number, word in enumerate(frequent, 2)}
        self._units = units

    def __len__(self) -> int:
        return len(self._numbers) + 2

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the numbers of the last 256 units; a text without any is one unknown unit."""
        words = self._units.split(text)[-LENGTH:]
        return np.array([self._numbers.get(w, UNKNOWN) for w in words] or [UNKNOWN], dtype=np.int64)


def train_bilstm(
    train: Table,
    validation: Table,
    test: Table,
    *,
    labels: Sequence[str] | None = None,
    decide: Decide | None = None,
    epochs: int = EPOCHS,
    seconds: float | None = None,
    seed: int = 0,
) -> BaselineResult:
    """Train the BiLSTM and evaluate the weights with the best validation accuracy.

    Args:
        train: rows to learn from.
        validation: rows to choose by.
        test: rows to evaluate on, once.
        labels: in order; taken from the training rows if omitted.
        decide: offsets of log probabilities by probabilities and classes of the validation rows;
            the most probable class is answered if omitted.
        epochs: passes over the training rows.
        seconds: stop after so long, validation included.
        seed: of weights and order.
    """
    import torch

    start = time.perf_counter()
    labels = labels or label_names(train)
    words = Words(train.texts, units := Units.of(train.texts))
    parts = _encoded(words, labels, train=train, validation=validation, test=test)
    torch.manual_seed(seed)
    network = _network(len(words), len(labels))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=True)
    batches = LabelledBatches(*parts["train"], BATCH, seed)
    steps_per_epoch = -(-len(train.texts) // BATCH)
    evaluate_every = -(-steps_per_epoch // EVALUATIONS_PER_EPOCH) if seconds else steps_per_epoch
    history: list[dict[str, float]] = []
    losses: list[float] = []
    best, best_weights = (-1.0, 0.0), copy.deepcopy(network.state_dict())
    with progress("BiLSTM", epochs * steps_per_epoch, "steps") as bar:
        for step in range(1, epochs * steps_per_epoch + 1):
            late = seconds is not None and time.perf_counter() - start >= seconds
            if not late:
                losses.append(_step(network, optimizer, batches, step - 1, steps_per_epoch))
                bar.advance(1, f"loss {losses[-1]:.3f}")
            # When time is up nothing may have been learned since the last evaluation.
            due = late or step % evaluate_every == 0 or step == epochs * steps_per_epoch
            if due and losses:
                epoch = (step - late) / steps_per_epoch
                with working("evaluating"):
                    row = _evaluate(network, parts["validation"], labels, losses, epoch)
                row["seconds"] = time.perf_counter() - start
                history.append(row)
                _show(bar, row)
                losses = []
                # Of equal accuracies the lower loss, as the GPT's checkpoint is chosen by it.
                if (score := (row["val_accuracy"], -row["val_loss"])) > best:
                    best, best_weights = score, copy.deepcopy(network.state_dict())
            if late:
                break
    trained = time.perf_counter() - start
    last = _metrics(network, parts["test"], labels)
    network.load_state_dict(best_weights)
    probabilities = _probabilities(network, parts["test"][0])
    held_out, answers = parts["validation"]
    decided = classes_answered(
        probabilities, decide, lambda: (_probabilities(network, held_out), answers)
    )
    chosen = classification_metrics(probabilities, parts["test"][1], labels, decided)
    unread = sum(bool((text == UNKNOWN).all()) for text in parts["test"][0])
    return BaselineResult(
        f"bidirectional LSTM{units.suffix}", "bilstm", chosen, probabilities, trained, history,
        last, unread, decided,
    )  # fmt: skip


def _encoded(
    words: Words, labels: Sequence[str], **tables: Table
) -> dict[str, tuple[list[NDArray[np.int64]], NDArray[np.int64]]]:
    return {
        name: ([words.encode(text) for text in table.texts], encode_labels(table, labels, name))
        for name, table in tables.items()
    }


def _network(n_words: int, n_labels: int) -> nn.Module:
    import torch
    from torch import nn

    class BiLSTM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(n_words, WIDTH, padding_idx=PADDING)
            self.lstm = nn.LSTM(WIDTH, WIDTH, bidirectional=True, batch_first=True)
            self.hidden = nn.Linear(2 * WIDTH, WIDTH)
            self.output = nn.Linear(WIDTH, 1 if n_labels == 2 else n_labels)
            _start_as_keras(self)

        def forward(self, words: Tensor) -> Tensor:
            """Map words ``[batch, length]`` to log-odds ``[batch, n_labels]``."""
            _, (final, _) = self.lstm(self.embedding(words))
            scores: Tensor = self.output(self.hidden(torch.cat([*final], 1)).relu())
            if n_labels == 2:
                # The sigmoid of one score is the softmax of it against zero.
                scores = torch.cat([torch.zeros_like(scores), scores], 1)
            return scores

    return BiLSTM()


def _start_as_keras(network: nn.Module) -> None:
    """Draw the weights as Keras does by default: the description names no other start.

    Glorot's uniform for what reads inputs, orthogonal for what reads states, biases zero but one
    for the forget gates (torch keeps two biases; only the first is set).
    """
    import torch
    from torch import nn

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "embedding" in name:
                parameter.uniform_(-0.05, 0.05)
            elif "bias" in name:
                parameter.zero_()
                if "bias_ih" in name:
                    parameter[WIDTH : 2 * WIDTH] = 1.0
            elif "lstm" in name:
                draw = nn.init.orthogonal_ if "weight_hh" in name else nn.init.xavier_uniform_
                for gate in range(4):
                    draw(parameter[gate * WIDTH : (gate + 1) * WIDTH])
            else:
                nn.init.xavier_uniform_(parameter)


def _front_padded(batches: LabelledBatches, first: int, n: int) -> tuple[Tensor, Tensor]:
    import torch

    batch = batches.batch(first, n)
    tokens = batch["tokens"]
    width = tokens.shape[1]
    place = torch.arange(width) - (width - batch["lengths"][:, None])
    words = torch.where(place >= 0, tokens.gather(1, place.clamp(min=0)), PADDING)
    return words, batch["targets"]


def _step(
    network: nn.Module, optimizer: Any, batches: LabelledBatches, step: int, per_epoch: int
) -> float:
    from torch.nn import functional as F

    network.train()
    epoch, place = divmod(step, per_epoch)
    n = min(BATCH, batches.samples_per_epoch - place * BATCH)
    words, targets = _front_padded(batches, epoch * batches.samples_per_epoch + place * BATCH, n)
    loss = F.cross_entropy(network(words), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _metrics(
    network: nn.Module,
    part: tuple[list[NDArray[np.int64]], NDArray[np.int64]],
    labels: Sequence[str],
) -> ClassificationMetrics:
    texts, targets = part
    return classification_metrics(_probabilities(network, texts), targets, labels)


def _probabilities(network: nn.Module, texts: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return ``[n, n_labels]`` in the order of the texts, which are read by length."""
    import torch

    batches = unlabelled(texts, BATCH)
    network.eval()
    with torch.no_grad():
        by_length = [
            network(_front_padded(batches, first, min(BATCH, len(texts) - first))[0]).softmax(1)
            for first in range(0, len(texts), BATCH)
        ]
    found = torch.cat(by_length).double().numpy()
    return np.asarray(found[np.argsort(batches.indices(0, len(texts)))])


def _evaluate(
    network: nn.Module,
    part: tuple[list[NDArray[np.int64]], NDArray[np.int64]],
    labels: Sequence[str],
    losses: list[float],
    epoch: float,
) -> dict[str, float]:
    scores = _metrics(network, part, labels)
    return {
        "epoch": epoch, "loss": float(np.mean(losses)),
        "val_loss": scores.loss, "val_accuracy": scores.accuracy,
    }  # fmt: skip


def _show(bar: Bar, row: dict[str, float]) -> None:
    bar.say(
        f"epoch {row['epoch']:.2f}: loss {row['loss']:.4f}, "
        f"validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}"
    )
