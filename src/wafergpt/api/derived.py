"""The public functions that make models of other ones: imports, exports, means, pruned runs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from wafergpt.api.given import Overrides, overrides_of, root_of, words_of
from wafergpt.errors import InputError, require_numbers
from wafergpt.files import from_home
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.runs.run import RUNS, AnyRun, Run


def import_model(
    folder: str | Path, name: str, root: str | Path = RUNS, ignore: Collection[str] = ()
) -> Run:
    """Make a run from a Hugging Face folder of a GPT-2; nothing in it is unpickled.

    Args:
        folder: with config.json, safetensors and, if there is one, the tokenizer.
        name: of the new run.
        root: the folder that holds runs.
        ignore: unknown settings of ``config.json`` that do not change the network.

    Returns:
        The new run.

    Raises:
        InputError: if the folder cannot be imported; the setting or the tensor is named.
    """
    with working("loading torch"):
        from wafergpt.interop.hf_import import import_folder

    return import_folder(from_home(folder), name, root_of(root), words_of(ignore, "ignore"))


def export(
    run: AnyRun,
    out: str | Path,
    to: Literal["hf", "gguf", "onnx"] = "hf",
    root: str | Path = RUNS,
    weights: Literal["fp32", "int8"] = "fp32",
) -> dict[str, Any]:
    """Export a run for transformers, llama.cpp or onnxruntime, after comparing its outputs.

    A Hugging Face folder also has a model card, with what ``evaluate`` has measured.

    Args:
        run: whose best weights are exported.
        out: the folder (``hf``, ``onnx``) or file (``gguf``) to make.
        to: the format.
        root: the folder that holds runs.
        weights: ``int8``, for ``onnx`` only: smaller and faster, and less exact, which is measured.

    Returns:
        ``path``, ``format``, ``max_relative_logit_difference`` and what it was compared with; for
        ``int8`` also sizes, seconds and metrics before and after.

    Raises:
        InputError: if the format cannot express the run, or ``out`` is taken.
        RunFailed: if the exported model's outputs differ.
    """
    from wafergpt.interop import export as exporting
    from wafergpt.reports.card import FILE, write_card

    out, root = from_home(out), root_of(root)
    made = exporting.export(run, out, to, root, weights)
    found = Run.find(run, root)
    # What was measured is of the run's best weights.
    if to == "hf" and not found.checkpoint:
        write_card(found, out / FILE)
    return made


def average(
    run: AnyRun,
    name: str,
    *,
    last: int | None = None,
    ema: float | None = None,
    root: str | Path = RUNS,
) -> Run:
    """Make a run from the mean of a run's checkpoints.

    The mean of a language model is evaluated on its corpus, if that still exists.

    Args:
        run: whose checkpoints.
        name: of the new run.
        last: take the plain mean of this many newest checkpoints (Izmailov et al., 2018).
        ema: take the exponential mean of all checkpoints after step 0, oldest to newest: at each
            one, the mean so far keeps this share.
        root: the folder that holds runs.

    Returns:
        The new run.

    Raises:
        InputError: if the name is taken, or the run has too few checkpoints.
        DamagedCheckpointError: if a checkpoint is not what was written.
    """
    from wafergpt.checkpoint import averaging
    from wafergpt.inference.evaluation import validation_loss

    root = root_of(root)
    require_numbers(last=last, ema=ema)
    made = averaging.average(Run.find(run, root), name, last=last, ema=ema, root=root)
    recipe = made.recipe
    if recipe.task is None and recipe.data.corpus is not None and recipe.data.corpus.is_dir():
        try:
            with working("evaluating"):
                made.write("result", made.read("result") | {"val_loss": validation_loss(made)})
        except InputError as error:
            say(f"warning: {made.path} is not evaluated: {error}")
    return made


def prune(
    run: AnyRun,
    name: str,
    overrides: Overrides = (),
    *,
    method: Literal["magnitude", "wanda", "sparsegpt"] | None = None,
    sparsity: float | None = None,
    pattern: bool = False,
    together: bool = False,
    samples: int = 128,
    max_loss_increase: float | None = None,
    curves: bool = False,
    layers: int | None = None,
    heads: int | None = None,
    channels: int | None = None,
    width: int | None = None,
    retrain: float | str | None = None,
    distill: bool = False,
    rows: float | None = None,
    vocabulary: bool = False,
    root: str | Path = RUNS,
) -> Run:
    """Make a run whose blocks have a share of zeros, or fewer parts, from a trained one.

    With ``retrain`` it is then trained on: NAME starts from NAME-pruned. Called again after an
    interruption, it goes on.

    Args:
        run: a language model or a task's.
        name: of the new run.
        overrides: ``section.key=value`` strings, or values by key, for data that has moved, and
            for the retraining.
        method: magnitude; Wanda (arXiv:2306.11695); SparseGPT (arXiv:2301.00774), if omitted.
        sparsity: the share of zeros in the matrices of the blocks; 0.5 if omitted, and none if
            only parts or rows are asked for.
        pattern: two of each four inputs (2:4).
        together: by magnitude, rank all matrices together.
        samples: sequences or rows of the training data that inputs are measured on.
        max_loss_increase: as a share, as in 0.01: find the largest sparsity that keeps to it, at
            most ``sparsity``. With ``retrain``, the most zeros or fewest parts, at most those
            asked for, with which it keeps to it after the retraining.
        curves: also measure, for the report, the loss at several sparsities and with each block
            alone pruned.
        layers: to keep. With this or one of the next three nothing is set to zero: the new run is a
            smaller dense one.
        heads: to keep in each layer.
        channels: of the feed-forward to keep in each layer.
        width: channels of the residual stream (``model.d_model``) to keep.
        retrain: tokens of a language model, as in ``"4M"``; passes over the rows of a task.
        distill: retrain with the run as the teacher.
        rows: of a task's run, the share to keep of the rows that training texts read in each
            n-gram table; 1 keeps all of these.
        vocabulary: of a task's run, take out tokens that training texts do not need.
        root: the folder that holds runs.

    Returns:
        The new run; its ``result`` has loss, time, FLOPs and sizes before and after.

    Raises:
        InputError: if the name is taken, the data is gone, no sparsity keeps to the limit, or the
            shape is impossible.
        RunFailed: if no retrained run keeps to the limit, or one diverges.
        Interrupted: after saving, if a signal requested a stop of the retraining.
    """
    from wafergpt.pruning.prune import Wanted, prune_run
    from wafergpt.pruning.structured import Narrowing
    from wafergpt.pruning.tables import Trimming
    from wafergpt.pruning.unstructured import Pruning

    root = root_of(root)
    require_numbers(sparsity=sparsity, samples=samples, max_loss_increase=max_loss_increase,
                    layers=layers, heads=heads, channels=channels, width=width,
                    rows=rows)  # fmt: skip
    asked = method or sparsity is not None or pattern or together or curves
    share = 0.5 if sparsity is None else sparsity
    zeros = Pruning(method or "sparsegpt", share, pattern, together, samples, None, curves)
    wanted = Wanted(
        zeros if asked else None,
        Narrowing(layers, heads, channels, width, samples),
        Trimming(rows, vocabulary),
        max_loss_increase,
        retrain,
        distill,
    )
    return prune_run(Run.find(run, root), name, overrides_of(overrides), wanted, root)
