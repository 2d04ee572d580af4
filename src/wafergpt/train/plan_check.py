"""A finished run beside its plan."""

from __future__ import annotations

from wafergpt.devices.load import OtherLoad
from wafergpt.logs import say
from wafergpt.planning.duration import PARTS
from wafergpt.progress import duration
from wafergpt.runs.run import Run
from wafergpt.train.timing import DISTURBING_LOAD

TOLERANCE = 0.25
"""A larger difference between planned and measured time is reported."""

SHORTEST_RUN = 20.0
"""Seconds; of a shorter run, start-up and chance are too large a part to be worth a line."""


def compare_with_plan(run: Run, load: OtherLoad, processes: int) -> None:
    """Log how far a run was from its plan, if it was far, and the likely cause.

    Args:
        run: finished in one go.
        load: since it began.
        processes: that shared the work.
    """
    plan, result = run.read("plan"), run.read("result")
    if not plan or not result or not result.get("time") or result["stopped_early"]:
        return
    planned, took = plan["seconds"], result["elapsed"]
    ratio = took / planned
    if took < SHORTEST_RUN or 1 / (1 + TOLERANCE) <= ratio <= 1 + TOLERANCE:
        return
    others = load.share(processes)
    if ratio > 1 and others > DISTURBING_LOAD and plan["device"] == "cpu":
        cause = f"other programs used {others:.0%} of the cores"
    else:
        before, after = plan["time"], result["time"]
        most = max(PARTS, key=lambda part: abs(after.get(part, 0.0) - before.get(part, 0.0)))
        cause = (
            f"{PARTS[most]} took {duration(after.get(most, 0.0))}, "
            f"not {duration(before.get(most, 0.0))}"
        )
    say(f"planned {duration(planned)}, took {duration(took)} ({ratio:.1f} times): {cause}")
