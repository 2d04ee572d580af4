"""Amounts with their units, as people write them: ``375M tokens``, ``1h30m``."""

from __future__ import annotations

import re

from wafergpt.files import short

NUMBER = r"(\d{1,20}(?:\.\d{1,20})?)"

_TOKENS = re.compile(rf"\s*{NUMBER}\s*([kKMBT]?)\s*(?:tokens)?\s*")
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_TIME = re.compile(
    r"\s*".join(
        rf"(?:{NUMBER}\s*{unit})?"
        for unit in ("d(?:ays?)?", "h(?:ours?)?", "m(?:in(?:utes?)?)?", "s(?:ec(?:onds?)?)?")
    )
)
_UNITS = (86400, 3600, 60, 1)


def token_count(text: str) -> int:
    """Read ``"375M tokens"`` (k, M, B or T; the word may be omitted).

    Raises:
        ValueError: if ``text`` is not of that form.
    """
    match = _TOKENS.fullmatch(text)
    if not match:
        raise ValueError(f"{short(text)} is not a number of tokens such as '375M tokens'")
    return round(float(match[1]) * _SCALES[match[2]])


def time_in_seconds(text: str) -> float:
    """Read ``"1h30m"``, ``"90 s"`` or ``"90"``.

    Raises:
        ValueError: if ``text`` is not of that form.
    """
    # A number alone is of seconds; behind hours it could be of minutes.
    if re.fullmatch(rf"\s*{NUMBER}\s*", text):
        return float(text)
    match = _TIME.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise ValueError(f"{short(text)} is not a time such as '90s', '30m' or '1h30m'")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), _UNITS, strict=True))
