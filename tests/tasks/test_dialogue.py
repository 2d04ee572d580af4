"""Dialogue end to end: what is learned, its form for other programs, and talking."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
import torch
from click.testing import CliRunner

from wafergpt.api import export, finetune
from wafergpt.cli.chat import command
from wafergpt.cli.predict import command as predict
from wafergpt.data.dialogues import TEMPLATE, Message, as_json
from wafergpt.data.labelled_rows import Table
from wafergpt.decoding.generator import Sampling
from wafergpt.errors import InputError
from wafergpt.inference.conversation import Conversation
from wafergpt.inference.predictor import Predictor
from wafergpt.tasks.dialogue import Dialogue, dialogue_prompt

REPLIES = {"good morning": "hello to you", "how are you": "very well", "good night": "sleep well"}

SMALL = [
    "model.n_layers=1", "model.d_model=48", "model.n_heads=2", "model.seq_len=64",
    "model.vocab_size=290", "system.precision=fp32", "system.threads=1", "system.compile=off",
    "model.dropout=0", "optimizer.lr=6e-3", "train.batch_size=16", "task.name=dialogue",
    "task.written=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    home = tmp_path_factory.mktemp("home")
    with (home / "train.jsonl").open("w") as file:
        for first in REPLIES:
            for second in REPLIES:
                turns = [["user", first], ["bot", REPLIES[first]], ["user", second],
                         ["bot", REPLIES[second]]]  # fmt: skip
                for copy in range(6):
                    file.write(json.dumps({"messages": turns, "id": copy}) + "\n")
    asked = [*SMALL, f"task.train={home / 'train.jsonl'}", "train.steps=100", "name=desk",
             f"task.validation={home / 'train.jsonl'}"]  # fmt: skip
    return finetune("scratch", None, asked, root=home / "runs")


def test_it_replies(desk: Predictor) -> None:
    assert desk.predict("how are you") == {"reply": "very well"}
    messages = [{"role": "user", "content": "how are you"},
                {"role": "assistant", "content": "very well"},
                {"role": "user", "content": "good night"}]  # fmt: skip
    assert desk.predict([messages, " "]) == [{"reply": "sleep well"}, None]
    result = desk.run.read("result")
    assert result["metrics"]["perplexity"] < 1.5
    assert result["metrics"]["samples"][0]["answer"] in REPLIES.values()


def test_a_reply_that_is_cut_does_not_learn_to_end_there(desk: Predictor) -> None:
    long = as_json([Message("user", "how are you")])
    table = Table([long, long], ["very well " * 40, "very well"])
    data = desk.task
    assert isinstance(data, Dialogue)
    texts, learned, prompts = data._samples(table, desk.tokenizer, trained=True)
    end = desk.tokenizer.end_of_text
    assert [text[-1] == end for text in texts] == [False, True]
    assert len(texts[0]) == desk.recipe.model.seq_len + 1
    assert all(mask[asked:].all() for mask, asked in zip(learned, prompts, strict=True))


def test_a_file_of_dialogues_or_lines_is_answered(desk: Predictor, tmp_path: Path) -> None:
    rows = [{"turns": [["user", "how are you"]]}, {"turns": [["user", "good night"]]}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "d.txt").write_text("how are you\n\ngood night\n")
    wanted = [{"reply": "very well"}, {"reply": "sleep well"}]
    for name, expected in (("d.jsonl", wanted), ("d.txt", [wanted[0], None, wanted[1]])):
        found = CliRunner().invoke(predict, [str(desk.run.path), "--file", str(tmp_path / name)])
        assert [json.loads(line) for line in found.stdout.splitlines()] == expected


def test_a_table_of_what_users_say_is_answered(desk: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "said.csv"
    source.write_text("id,text\n1,good night\n\n2,how are you\n")
    found = desk.predict_file(source, tmp_path / "out.csv", column="text")
    assert (found["rows"], found["blank"]) == (3, 1)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1:] == ["1,good night,sleep well", ",,", "2,how are you,very well"]
    (tmp_path / "some.jsonl").write_text(
        '{"messages": []}\n{"messages": [["user", "good night"]]}\n'
    )
    assert desk.predict_file(tmp_path / "some.jsonl", tmp_path / "some.csv")["blank"] == 1
    with pytest.raises(InputError, match="--column COLUMN names another"):
        desk.predict_file(source, tmp_path / "none.csv", column="txt")


def test_every_reply_is_learned_and_nothing_else(desk: Predictor) -> None:
    messages = [Message("system", "Be kind."), Message("user", "how are you"),
                Message("assistant", "very well"), Message("user", "good night")]  # fmt: skip
    prompt = dialogue_prompt(messages, desk.tokenizer)
    learned = [int(token) for token in prompt.tokens[prompt.learned]]
    assert learned[-1] == desk.tokenizer.end_of_text
    assert desk.tokenizer.decode(learned[:-1]) == " very well"


def test_the_template_writes_what_is_read(desk: Predictor) -> None:
    messages = [Message("system", "Be kind."), Message("user", "how are you")]
    shown = jinja2.Template(TEMPLATE).render(
        messages=[{"role": m.role, "content": m.content} for m in messages],
        eos_token="\0", add_generation_prompt=True,
    )  # fmt: skip
    tokens = [int(token) for token in dialogue_prompt(messages, desk.tokenizer).tokens]
    end, parts = desk.tokenizer.end_of_text, shown.split("\0")
    assert [desk.tokenizer.encode(part) for part in parts] == [
        list(part) for part in _split(tokens, end)
    ]


def _split(tokens: list[int], end: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == end:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def test_transformers_reads_and_continues_the_same(desk: Predictor, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="it is compared with transformers")
    export(desk.run, tmp_path / "hf")
    messages = [Message("user", "how are you")]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        add_generation_prompt=True, return_tensors="pt", return_dict=False,
    )  # fmt: skip
    assert ids[0].tolist() == dialogue_prompt(messages, desk.tokenizer).tokens.tolist()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    reply = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12,
                           do_sample=False)  # fmt: skip
    assert tokenizer.decode(reply[0, ids.shape[1] :], skip_special_tokens=True) == " very well"


@pytest.mark.slow
def test_it_goes_to_onnx_as_a_language_model(desk: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="it is read back with onnxruntime")
    found = export(desk.run, tmp_path / "onnx", to="onnx")
    assert found["max_relative_logit_difference"] < 1e-3
    assert found["compared_on"] != "made-up texts"


def test_a_conversation_remembers_and_forgets(desk: Predictor) -> None:
    talk = Conversation(desk, Sampling(max_tokens=16, temperature=0))
    assert "".join(talk.reply("good morning")) == "hello to you"
    assert "".join(talk.reply("good night")) == "sleep well"
    assert [message.role for message in talk.messages] == ["user", "assistant"] * 2
    for _ in range(20):
        # Far beyond the context: the oldest messages are not read.
        assert "".join(talk.reply("how are you"))
    assert len(talk.messages) == 44
    talk.reset()
    assert talk.messages == []


def test_chat_reads_lines_and_commands(desk: Predictor) -> None:
    lines = (
        "good night\n\n/history\n/nonsense\n/system Be kind.\n/history\nhow are you\n/quit\nno\n"
    )
    asked = [str(desk.run.path), "--temperature", "0"]
    found = CliRunner().invoke(command, asked, input=lines)
    assert found.exit_code == 0
    assert found.stdout == "sleep well\nvery well\n"
    assert "assistant: sleep well" in found.stderr
    assert "system: Be kind." in found.stderr
    assert "there is no /nonsense" in found.stderr
    as_json = CliRunner().invoke(command, [*asked, "--json"], input="good night\n")
    assert json.loads(as_json.stdout)["messages"][-1]["content"] == "sleep well"


def test_only_dialogues_are_talked_with(tmp_path: Path) -> None:
    from wafergpt.runs.run import Run

    with pytest.raises(InputError, match=r"base.* is a language model.*task.name=dialogue"):
        Conversation.load(Run.find("base", tmp_path))


def test_a_long_dialogue_is_read_the_same_everywhere(desk: Predictor) -> None:
    """The oldest messages are left out, never half of one, and never what the system says."""
    task, tokenizer = desk.task, desk.tokenizer
    assert isinstance(task, Dialogue)
    said = [Message("user" if n % 2 == 0 else "assistant", f"good night {n}") for n in range(41)]
    talk = Conversation(desk, system="be kind", messages=said[:-1])
    read = talk._tokens(said)
    text = as_json([Message("system", "be kind"), *said])
    batch = task.encode([text], tokenizer).batches.batch(0, 1)
    given = batch["tokens"][0, : int(batch["prompts"][0])].tolist()
    assert given == read
    parts = tokenizer.decode(read).split("<|endoftext|>")
    assert parts[0] == "system: be kind"
    assert parts[1:] == [
        *(f"{one.role}: {one.content}" for one in said[43 - len(parts) :]),
        "assistant:",
    ]
    assert len(read) <= task.longest_prompt
    # Of a last message that is too long by itself, the end is read.
    alone = dialogue_prompt(
        [Message("system", "be kind"), Message("user", "night " * 99)], tokenizer
    )
    kept = alone.cut(task.longest_prompt, keeps_end=True).tokens
    assert (kept == alone.tokens[-len(kept) :]).all()
    assert len(kept) == task.longest_prompt
    assert desk.predict([[], [Message("user", "good night")]])[0] is None
