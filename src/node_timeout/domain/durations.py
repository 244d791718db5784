"""ISO 8601 durations, read strictly: weeks, days, hours, minutes, seconds.

``PT10M``, ``P1DT12H``, ``P2W``, ``PT0.5S``. Years and months are refused: they have no fixed length
in seconds. Forms that only some parsers accept are refused too: signs, commas, lower case, weeks
together with other units, a ``T`` with nothing after it.
"""

from __future__ import annotations

import math
import re

from node_timeout.domain.errors import InvalidInputError
from node_timeout.domain.hints import shown

_NUMBER = r"\d{1,12}"
_WEEKS = re.compile(rf"P({_NUMBER})W", re.ASCII)
_PARTS = re.compile(
    rf"P(?!\Z)(?:({_NUMBER})D)?"
    rf"(?:T(?!\Z)(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER}(?:\.\d{{1,9}})?)S)?)?",
    re.ASCII,
)
_CALENDAR = re.compile(r"[+-]?P(\d[\d.,]*[YMWD])+(T.*)?", re.ASCII | re.IGNORECASE)
UNITS = {"W": 604_800, "D": 86_400, "H": 3_600, "M": 60}


def parse_duration(text: object) -> float:
    """The duration in seconds. Raises `InvalidInputError`, which says what to write."""
    if isinstance(text, str):
        if weeks := _WEEKS.fullmatch(text):
            return float(int(weeks[1]) * UNITS["W"])
        if parts := _PARTS.fullmatch(text):
            days, hours, minutes, seconds = (part or "0" for part in parts.groups())
            whole = int(days) * UNITS["D"] + int(hours) * UNITS["H"] + int(minutes) * UNITS["M"]
            return whole + float(seconds)
    calendar = isinstance(text, str) and _CALENDAR.fullmatch(text)
    if calendar and re.search(r"[YM]", str(text).upper().partition("T")[0]):
        raise InvalidInputError(
            f"{shown(text)} has years or months, which have no fixed length: write days, as in P30D"
        )
    raise InvalidInputError(f"{shown(text)} is no duration such as PT10M, PT1H30M, P1D or P2W")


def parse_seconds(text: str) -> float:
    """Read a number of seconds, or a duration. Raises `InvalidInputError`."""
    if text.startswith("P"):
        return parse_duration(text)
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(
            f"{shown(text)} is neither seconds nor a duration such as PT10M"
        ) from None


def parse_move(text: str) -> float:
    """Seconds by which a deadline moves: a duration; a leading minus means to an earlier instant.

    Raises `InvalidInputError`.
    """
    seconds = parse_duration(text.removeprefix("-"))
    return -seconds if text.startswith("-") else seconds


def duration_text(seconds: float) -> str:
    """Seconds as text that `parse_duration` reads; negative ones have a leading minus."""
    if not math.isfinite(seconds):
        return f"{seconds:g} s"
    sign, rest = ("-" if seconds < 0 else ""), round(abs(seconds), 3)
    days, rest = divmod(rest, UNITS["D"])
    hours, rest = divmod(rest, UNITS["H"])
    minutes, rest = divmod(rest, UNITS["M"])
    day = f"{days:.0f}D" if days else ""
    parts = [f"{hours:.0f}H" if hours else "", f"{minutes:.0f}M" if minutes else ""]
    second = f"{rest:.3f}".rstrip("0").rstrip(".")
    parts.append(f"{second}S" if second != "0" or not (days or hours or minutes) else "")
    time = "".join(parts)
    return f"{sign}P{day}{'T' + time if time else ''}"
