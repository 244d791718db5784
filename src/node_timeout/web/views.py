"""How pages show instants, durations and numbers. All other values are only escaped."""

import json
import math

from markupsafe import Markup

from node_timeout.domain.instants import iso, utc
from node_timeout.web.api import COUNTED
from node_timeout.web.languages import Say

SHORT_SECONDS = 10.0
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def instant(seconds: float | None, say: Say) -> Markup | str:
    """The instant in UTC; the page's script converts it to the browser's time zone."""
    if seconds is None:
        return say("none")
    found = utc(seconds)
    if found is None:
        return f"{seconds:g}"
    text = found.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(iso(seconds), text, text)


def duration(seconds: float | None, say: Say) -> str:
    """The two largest units, such as "1 h 30 min"; short durations are more precise."""
    if seconds is None or not math.isfinite(seconds):
        return say("none")
    sign, rest = ("−" if seconds < 0 else ""), abs(seconds)
    if rest < 1:
        return f"{sign}{rest * 1000:.3g} {say('unit.ms')}"
    if rest < SHORT_SECONDS:
        return f"{sign}{rest:.3g} {say('unit.s')}"
    parts: list[str] = []
    for name, size in UNITS:
        count, rest = divmod(rest, size)
        if count and len(parts) < len(UNITS[:2]):
            parts.append(f"{count:.0f} {say(f'unit.{name}')}")
        elif parts:
            break
    return sign + " ".join(parts)


def number(count: float | None, say: Say) -> str:
    """The number with separators; a count that was cut off ends with a plus."""
    if count is None:
        return say("none")
    text = f"{count:,.0f}"
    return say("counted", number=text) if count >= COUNTED else text


def payload(text: str | None) -> str:
    """JSON, indented; text that is not JSON, or is nested too deep, stays as it is."""
    try:
        return "" if text is None else json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return str(text)


def percent(value: float, least: float, most: float) -> float:
    """The position of a value between two others, from 0 to 100."""
    return (
        0.0 if most <= least else round(100 * min(max((value - least) / (most - least), 0), 1), 2)
    )
