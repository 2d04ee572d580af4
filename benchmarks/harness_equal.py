"""The harness on a GPT-2 of Cerebras-GPT 111M's shape: native, and as its own model of the export.

transformers makes the network, with weights drawn at random, and saves it with GPT-2's tokenizer;
``import`` reads that folder, ``export --format hf`` writes another one. Log-likelihoods of the same
requests and the scores of every task are compared: natively, of the export, and of the folder that
transformers had made.

    python -m benchmarks.harness_equal --data ../shared/data --rows 20 --out harness-equal
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafergpt.api import evaluate, export, import_model
from wafergpt.suites.harness_tasks import local_tasks, task_config


def made_by_transformers(data: Path, out: Path) -> Path:
    """Save such a network with GPT-2's tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    folder, bpe = out / "made", data / "gpt2_bpe"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_bytes(gzip.decompress((bpe / "encoder.json.gz").read_bytes()))
    (folder / "merges.txt").write_bytes((bpe / "vocab.bpe").read_bytes())
    GPT2Tokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    shape = GPT2Config(
        n_positions=2048,
        n_embd=768,
        n_layer=10,
        n_head=12,
        n_inner=3072,
        activation_function="gelu",
    )
    GPT2LMHeadModel(shape).save_pretrained(folder)
    return folder


def scores_of(folder: Path, tasks: Path, rows: int) -> Mapping[str, Any]:
    """Evaluate a Hugging Face folder by the harness's own model."""
    from lm_eval.evaluator import evaluate as of_harness
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    configs: list[Any] = [task_config(name, path) for name, path in local_tasks(tasks).items()]
    loaded = TaskManager(include_defaults=False).load(configs)
    found = of_harness(model, loaded, rows, bootstrap_iters=0, log_samples=False)
    assert found is not None
    results: Mapping[str, Any] = found["results"]
    return results


def likelihoods(model: Any) -> list[float]:
    """Return the log-likelihoods of some continuations, and of a whole text."""
    from lm_eval.api.instance import Instance

    pairs = [("The capital of France is", end) for end in (" Paris", " Rome", " a city of light")]
    pairs += [("Wafers are " * 400, "large"), ("", "It was a dark night.")]
    asked = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    whole = [Instance("loglikelihood_rolling", {}, ("One of many words. " * 300,), 0)]
    return [value for value, _ in model.loglikelihood(asked)] + [
        float(value) for value in model.loglikelihood_rolling(whole)
    ]


def main() -> None:
    """Print the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20, help="of each task")
    options = parser.parse_args()
    from lm_eval.models.huggingface import HFLM

    from wafergpt.inference.writer import Writer
    from wafergpt.suites.harness_model import HarnessModel

    made = made_by_transformers(options.data, options.out)
    run = import_model(made, "imported", options.out)
    exported = options.out / "exported"
    export(run, exported, "hf")
    native = likelihoods(HarnessModel(Writer.load(run, "cpu")))
    for folder in (made, exported):
        theirs = likelihoods(HFLM(pretrained=str(folder), device="cpu", dtype="float32"))
        *apart, whole = (abs(a - b) for a, b in zip(native, theirs, strict=True))
        print(f"{folder.name}: log-likelihoods of answers are at most {max(apart):.1e} apart, that "
              f"of a text of {native[-1]:.0f} nats {whole:.1e}")  # fmt: skip
    tasks = options.data / "lm_eval"
    ours = evaluate(run, ["harness"], tasks_folder=tasks, rows=options.rows)["harness"]["tasks"]
    theirs_of = {folder.name: scores_of(folder, tasks, options.rows) for folder in (made, exported)}
    for name, one in ours.items():
        others = [f"{scores[name]['acc,none']:.4f}" for scores in theirs_of.values()]
        print(f"{name}: native {one['acc']:.4f}, {', '.join(others)}")


if __name__ == "__main__":
    main()
