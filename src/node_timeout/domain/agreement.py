"""Finds differences in settings that all processes must share. Pure; see `runtime.agreement`."""

from __future__ import annotations

from collections.abc import Mapping

LEDGER_ID = "ledger_id"
MEND = "give every process the same value, and restart the scanners first"


def problems(
    settings: Mapping[str, str], stored: Mapping[str, str], marked: str | None
) -> list[str]:
    """One sentence for each difference between these settings and those that a scanner stored.

    ``marked`` is the ledger id that the pool holds.
    """
    if LEDGER_ID not in stored:
        return []
    found = differences(settings, stored, "in the scanners")
    if marked is None and not found:
        found.append(
            "the scanners have never served the pool in this Redis: redis_url may name another "
            "server or database number than theirs, or it has lost its data since; " + MEND
        )
    elif marked not in (None, stored[LEDGER_ID]):
        found.append(
            "the pool in this Redis belongs to the scanners of another database: database_url "
            "or redis_url is not theirs; " + MEND
        )
    return found


def differences(settings: Mapping[str, str], stored: Mapping[str, str], where: str) -> list[str]:
    """One sentence for each difference; ``where`` says where ``stored`` comes from."""
    return [
        f"{name} is {own!r} here and {stored[name]!r} {where}; {MEND}"
        for name, own in settings.items()
        if stored.get(name, own) != own
    ]
