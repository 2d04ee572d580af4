"""Every command and every line of Python in the guide works when pasted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the (language, content) of each fenced block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.M | re.S)


@pytest.mark.slow
def test_the_guide_works_when_pasted(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    for language, content in blocks("docs/guide.md"):
        command = (
            ["bash", "-euc", content] if language == "bash" else [sys.executable, "-c", content]
        )
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, f"{content}\n{result.stdout}\n{result.stderr}"
    assert (tmp_path / "runs" / "judge" / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/guide.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_chinese_readme_says_the_same() -> None:
    english, chinese = blocks("README.md"), blocks("README.zh-CN.md")

    def bare(content: str) -> str:
        return re.sub(r"\s*#.*", "", content)

    assert [(k, bare(c)) for k, c in english] == [(k, bare(c)) for k, c in chinese]


def test_verbs_in_the_readme_exist() -> None:
    from wafergpt.cli import VERBS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^wafergpt (\w+)", text, flags=re.M)) <= set(VERBS)
    assert all(f"`{verb}`" in text for verb in VERBS)
