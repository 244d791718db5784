"""The numbers of one round of a workload."""

from collections.abc import Sequence
from typing import Any

Result = dict[str, Any]
LISTS = ("lateness", "newcomers_late")


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def figures(result: Result) -> Result:
    """One round's numbers; of a list its percentiles, in milliseconds."""
    found: Result = {}
    for name, value in result.items():
        if name in LISTS:
            for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
                found[f"{name} {label} ms"] = percentile(value, share) * 1000
        elif isinstance(value, dict):
            found |= {f"{name} {key}": each for key, each in value.items()}
        elif isinstance(value, int | float):
            found[name] = value
    return found
