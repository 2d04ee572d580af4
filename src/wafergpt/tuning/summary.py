"""What is known of a study's trials, for its result, its report and people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wafergpt.tuning.samplers import LEAST_TO_TELL

if TYPE_CHECKING:
    from wafergpt.tuning.records import Outcome
    from wafergpt.tuning.study import Study
    from wafergpt.tuning.study_spec import StudySpec

TRIALS = "trials"
"""Name of the JSON file of a study's run that has the summary as soon as a trial is settled."""


def summary(asked: StudySpec, study: Study, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the settled trials of a study, and what they show.

    Args:
        asked: what is tuned.
        study: that made them.
        outcomes: of the settled trials.

    Returns:
        ``metric``, ``objectives`` and ``directions``; of the best trial ``best``, its settings,
        ``best_trial`` and ``value``; ``default_value``; ``trials``, their number; ``elapsed``
        seconds of all; ``importances``; ``spaces``; ``outcomes``, a row for each trial; and
        ``not_beaten``, the trials that no other one beats in all objectives.
    """
    best, default = study.best_of(outcomes), default_of(outcomes)
    return {
        "metric": asked.objective,
        "objectives": [asked.objective, *asked.also],
        "directions": asked.directions,
        "best": {} if best is None else settings_of(asked, best),
        "best_trial": best and best.run,
        "value": best and best.values and best.values[0],
        "default_value": default and default.values and default.values[0],
        "trials": len(outcomes),
        "elapsed": sum(one.seconds for one in outcomes),
        "importances": study.importances(),
        "spaces": {key: space.text for key, space in asked.tuned.items()},
        "outcomes": [_row(one) for one in outcomes],
        "not_beaten": study.not_beaten() if asked.also else [best.run] if best else [],
    }


def default_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the trial that is the recipe as it stands, if it is settled."""
    return next((one for one in outcomes if one.is_default), None)


def settings_of(asked: StudySpec, outcome: Outcome) -> dict[str, str]:
    """Return a trial's settings by key, as they are written; of the default as far as it has."""
    return {key: asked.tuned[key].written(value) for key, value in outcome.params.items()}


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "number": outcome.number,
        "run": outcome.run,
        "params": dict(outcome.params),
        "values": None if outcome.values is None else list(outcome.values),
        "why": outcome.why,
        "seconds": outcome.seconds,
        "default": outcome.is_default,
    }


def amount(value: float) -> str:
    """Return the value of an objective for people."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def explained(result: dict[str, Any]) -> list[str]:
    """Return what a study has found, a line each, as its recipe says it too.

    Args:
        result: of the study's run.
    """
    metric = result["metric"].replace("_", " ")
    default, value = result["default_value"], result["value"]
    best, chosen = (
        ", ".join(f"{key}={text}" for key, text in result[one].items())
        for one in ("best", "chosen")
    )
    defaults = [one["run"] for one in result["outcomes"] if one["default"]]
    if result["chosen_trial"] in defaults:
        chosen = "the default"
    lines = [f"chosen: {result['chosen_trial']} of {result['trials']} trials, {chosen}"]
    found = f"validation {metric}: {value:.4f}"
    if default is not None and result["chosen_trial"] != result["best_trial"]:
        found = f"validation {metric}: {default:.4f}; {result['best_trial']} ({best}) has "
        found += f"{value:.4f}, which may be chance"
    elif default is not None and chosen != "the default":
        found += f" (the default: {default:.4f})"
    lines.append(found)
    test, other = result.get("test"), result.get("default_test")
    if test and other and result["metric"] in test:
        numbers = [f"{one[result['metric']]:.4f}" for one in (test, other)]
        found = f"test {metric}: {numbers[0]} (the default: {numbers[1]})"
        if difference := result.get("difference"):
            low, high = difference["low"], difference["high"]
            found += f", a difference of {difference['value']:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(found)
    if (count := result.get("judged") or 0) > 1:
        lines.append(f"test rows: judged {count} choices of this study, so not unseen by it")
    if shares := sorted(result["importances"].items(), key=lambda pair: -pair[1]):
        lines.append("matters most: " + ", ".join(f"{key} {share:.0%}" for key, share in shares))
    elif len(result["spaces"]) > 1:
        lines.append(f"matters most: not told by fewer than {LEAST_TO_TELL} trials that ended")
    if len(result["objectives"]) > 1:
        values = {one["run"]: one["values"] for one in result["outcomes"]}
        for run in result["not_beaten"]:
            pairs = zip(result["objectives"], values[run], strict=True)
            told = ", ".join(f"{name} {amount(number)}" for name, number in pairs)
            lines.append(f"not beaten: {run}, {told}")
    return lines
