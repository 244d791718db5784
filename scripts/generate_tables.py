"""Writes the tables of settings and metrics into the documents, between their markers.

Run from the root of the checkout: python scripts/generate_tables.py [--check]
"""

import sys
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr

from node_timeout import metrics
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings
from node_timeout.urls.redaction import redact

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    "settings": ("README.md", "README.zh-CN.md", "docs/reference/settings.md"),
    "metrics": ("docs/reference/metrics.md",),
}


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        rows.append(f"| `{variable(name)}` | {_default(default)} | {field.description} |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = redact(value.get_secret_value())
    if value is None:
        return "–"
    return f"`{value:.15g}`" if isinstance(value, float) else f"`{value}`"


def metrics_table() -> str:
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001
            meaning = family.documentation
            rows.append(f"| `{name}` | {family.type} | {labels or '–'} | {meaning} |")
    return "\n".join(rows)


def written(text: str, name: str, table: str) -> str:
    """The document with the table between its markers."""
    begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def stale_documents() -> dict[Path, str]:
    """Documents that differ from what they should be, with what they should be."""
    tables = {"settings": settings_table(), "metrics": metrics_table()}
    stale: dict[Path, str] = {}
    for name, documents in DOCUMENTS.items():
        for document in documents:
            path = ROOT / document
            text = path.read_text(encoding="utf-8")
            fresh = written(text, name, tables[name])
            if fresh != text:
                stale[path] = fresh
    return stale


if __name__ == "__main__":
    found = stale_documents()
    if "--check" in sys.argv:
        sys.exit("\n".join(f"stale: {path.relative_to(ROOT)}" for path in found) or 0)
    for path, fresh in found.items():
        path.write_text(fresh, encoding="utf-8")
