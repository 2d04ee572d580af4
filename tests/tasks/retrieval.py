"""Made rows of retrieval: facts about animals, and questions about them."""

from __future__ import annotations

import csv
import json
import random
from itertools import product
from pathlib import Path

ANIMALS = ["cat", "dog", "fox", "owl", "bee", "ant", "cow", "hen", "pig", "rat"]
FACTS = {
    "color": ("is", ["red", "blue", "grey", "brown"]),
    "food": ("eats", ["grass", "mice", "honey", "seeds"]),
    "home": ("lives in", ["trees", "caves", "nests", "barns"]),
}
SMALL = [
    "model.n_layers=1", "model.d_model=32", "model.n_heads=2", "model.seq_len=40",
    "model.vocab_size=300", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "model.dropout=0", "optimizer.lr=3e-3",
]  # fmt: skip


def facts(seed: int) -> list[tuple[str, str]]:
    """Return questions and their answers."""
    draw = random.Random(seed)
    found = []
    for one, two in product(ANIMALS, ANIMALS):
        for kind, (verb, values) in FACTS.items():
            answer = f"The {one} {two} {verb} {draw.choice(values)}."
            found.append((f"{kind} of the {one} {two}?", answer))
    draw.shuffle(found)
    return found


def write_pairs(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write pairs as jsonl."""
    lines = [json.dumps({"query": q, "positive": a}) for q, a in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_lists(path: Path, rows: list[tuple[str, str]], others: int = 3) -> Path:
    """Write each question with its answer and those of others, as csv."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "text", "label"])
        for question, answer in rows:
            wrong = [(question, text, 0) for _, text in draw.sample(rows, others) if text != answer]
            candidates = [(question, answer, 1), *wrong]
            draw.shuffle(candidates)
            writer.writerows(candidates)
    return path
