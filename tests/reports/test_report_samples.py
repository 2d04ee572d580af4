"""Samples: untrusted text, shown as it is."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from wafergpt.reports.markup import escape, table
from wafergpt.reports.samples import MAX_EVALUATIONS, read_samples, samples_html


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.depth = 0
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_evaluations_are_split_at_headings_outside_fences(tmp_path: Path) -> None:
    path = tmp_path / "samples.md"
    path.write_text("## step 1\n\n> a\n\n## step 2\n\n```\n## no heading\n```\n")
    assert read_samples(path) == {"step 1": "> a", "step 2": "```\n## no heading\n```"}


def test_an_evaluation_written_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "samples.md"
    path.write_text(
        "## step 1 · validation loss 3.1\n\n> a\n\n## step 2 · validation loss 3.0\n\n> b\n\n"
        "## step 2 · validation loss 2.9\n\n> c\n"
    )
    assert read_samples(path) == {
        "step 1 · validation loss 3.1": "> a",
        "step 2 · validation loss 2.9": "> c",
    }


def test_no_file_no_samples(tmp_path: Path) -> None:
    assert read_samples(tmp_path / "samples.md") == {}


def test_the_last_evaluation_comes_first_and_the_prompt_stands_out() -> None:
    html = samples_html({"step 1": "> old", "step 2": "> **The film** was **good**\n> indeed"})
    assert html.index("Step 2") < html.index("<details>") < html.index("old")
    assert "<b>The film</b> was **good**\nindeed</blockquote>" in html


def test_many_evaluations_are_thinned_to_the_first_the_last_and_some_between() -> None:
    html = samples_html({f"step {i}": f"> text {i}" for i in range(1, 101)})
    assert html.count("<h4>") == MAX_EVALUATIONS
    assert "Step 100<" in html
    assert "Step 1<" in html


@given(st.text(max_size=300))
def test_whatever_a_model_writes_makes_no_tags(text: str) -> None:
    page = Tags(samples_html({"step 1": text, "step 2": f"> {text}"}))
    allowed = {"h4", "p", "pre", "blockquote", "b", "details", "summary"}
    assert page.tags <= allowed
    assert page.depth == 0


@given(st.text(max_size=100))
def test_escaped_text_reads_as_it_was(text: str) -> None:
    page = Tags(escape(text))
    assert page.tags == set()
    kept = "".join(c if c in "\t\n\r" or (c >= " " and c != "\x7f") else "�" for c in text)
    assert page.text == kept


def test_a_table_marks_one_row() -> None:
    html = table(("Model", "Accuracy"), [("a<b", "1"), ("c", "2")], marked=(0,))
    assert html.count('class="marked"') == 1
    assert "a&lt;b" in html
