"""The page in a real browser: no error, nothing cut off on a phone, light and dark."""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wafergpt.config import recipe_from
from wafergpt.reports import write_report
from wafergpt.runs.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: none is installed here"),
]

# Loads the page at the width of a phone, clicks, and writes down what it sees.
PROBE = """<!doctype html><link rel="icon" href="data:,"><body>
<iframe id="phone" src="report.html" style="width:WIDTHpx;height:2000px;border:0"></iframe>
<pre id="seen"></pre><script>
document.getElementById("phone").addEventListener("load", (event) => {
  const page = event.target.contentDocument;
  const root = page.documentElement;
  const title = () => page.querySelector("#chart-pretraining-loss .xtitle").textContent;
  const before = title();
  page.querySelector('.axes[data-chapter="pretraining"] [data-axis="seconds"]').click();
  const charts = [...page.querySelectorAll(".chart")];
  const wide = [...page.querySelectorAll("main *")].filter((node) =>
    !node.closest("svg, .table") && node.getBoundingClientRect().right > root.clientWidth + 1);
  document.getElementById("seen").textContent = JSON.stringify({
    overflow: root.scrollWidth - root.clientWidth,
    wide: wide.map((node) => node.outerHTML.slice(0, 80)),
    charts: charts.length,
    drawn: charts.filter((node) => node.querySelector(".cartesianlayer :is(.trace, image)")).length,
    titles: [before, title()],
    line: [...page.querySelectorAll("#chart-pretraining-loss .js-line")].at(-1).style.stroke,
    background: getComputedStyle(page.body).backgroundColor,
    alerts: event.target.contentWindow.hacked ?? null,
  });
});
</script></body>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    root = tmp_path_factory.mktemp("site")
    hostile = "<script>window.hacked=1</script>" + "x" * 80
    base = Run.create(recipe_from({"name": "base"}), root)
    run = Run.create(recipe_from({"name": "tuned", "task": {}}), root)
    for step in range(1, 61):
        row = {"step": step, "tokens": step * 4096, "seconds": float(step), "loss": 9 / step}
        base.log(row | {"lr": 1e-3, "val_loss": 10 / step, "val_bits_per_byte": 2 / step})
        run.log(row | {"val_loss": 1 / step, "val_accuracy": 1 - 1 / step})
    labels = [hostile, *(f"label {i}" for i in range(8))]
    test = {
        "accuracy": 0.5,
        "labels": labels,
        "confusion": [[100 + i + j for j in range(9)] for i in range(9)],
        "per_class": [{"label": label, "f1": 0.5, "support": 9} for label in labels],
    }
    run.write("result", {"step": 60, "seconds": 60.0, "pretrained": str(base.path), "test": test})
    names = [(hostile, "gpt"), ("BiLSTM", "bilstm")]
    run.write(
        "comparison", [{"name": n, "kind": k, "accuracy": 0.5, "test": test} for n, k in names]
    )
    (base.path / "samples.md").write_text(f"## step 60\n\n> **{hostile}**{'y' * 500}\n")
    write_report(run, root / "report.html")
    handler = functools.partial(QuietHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield root, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom",
)  # fmt: skip


def opened(path: Path, profile: Path) -> str:
    """Return what a browser makes of a page that is opened from the disk."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
def test_from_the_disk_with_its_script_above_it_without_and_inside(
    site: tuple[Path, str], tmp_path: Path
) -> None:
    run = Run(site[0] / "base")
    page = opened(write_report(run), tmp_path / "profile")
    assert 'class="main-svg"' in page
    assert '<html lang="en" class="live">' in page
    # Sent alone, it says what is missing and shows the rest.
    alone = tmp_path / "alone" / "deep" / "report.html"
    alone.parent.mkdir(parents=True)
    shutil.copy(run.path / "report.html", alone)
    page = opened(alone, tmp_path / "profile")
    assert 'class="main-svg"' not in page
    assert '<html lang="en" class="live bare">' in page
    shutil.copy(write_report(run, self_contained=True), alone)
    assert 'class="main-svg"' in opened(alone, tmp_path / "profile")


def rendered(site: tuple[Path, str], width: int, scheme: str, profile: Path) -> dict[str, Any]:
    root, address = site
    (root / "probe.html").write_text(PROBE.replace("WIDTH", str(width)))
    done = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width + 200},2200",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            f"{address}/probe.html",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, "\n".join(console)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout)
    assert found, "the page did not load"
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(
    site: tuple[Path, str], width: int, scheme: str, tmp_path: Path
) -> None:
    seen = rendered(site, width, scheme, tmp_path)
    assert seen["overflow"] == 0
    assert seen["wide"] == []
    assert seen["charts"] == seen["drawn"] == 7
    assert seen["titles"] == ["Tokens", "Time (seconds)"]
    light = scheme == "light"
    assert seen["background"] == ("rgb(247, 247, 245)" if light else "rgb(14, 16, 20)")
    # The validation line, in the colour of its style.
    assert seen["line"] == ("rgb(198, 90, 0)" if light else "rgb(245, 165, 85)")
    assert seen["alerts"] is None


@pytest.mark.slow
def test_the_probe_sees_an_error(site: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = site
    page = (root / "report.html").read_text()
    try:
        # One changed byte, and the page's own policy refuses the script.
        changed = page.replace('classList.add("live");', 'classList.add("live"); ')
        assert changed != page
        (root / "report.html").write_text(changed)
        with pytest.raises(AssertionError, match="Content Security Policy"):
            rendered(site, 390, "light", tmp_path)
    finally:
        (root / "report.html").write_text(page)
