"""Writes the demo's pipeline tree with bamboo's own builder.

Run from the root of the checkout, in the environment of `make test-bamboo`:
.venv-bamboo/bin/python scripts/build_demo_pipeline.py
"""

import json
from pathlib import Path
from typing import Any

from bamboo_engine.builder import (
    ConvergeGateway,
    EmptyEndEvent,
    EmptyStartEvent,
    ParallelGateway,
    ServiceActivity,
    SubProcess,
    build_tree,
)

TARGET = Path(__file__).parents[1] / "src" / "node_timeout" / "demo" / "pipeline.json"


def build() -> dict[str, Any]:
    def step(node_id: str) -> Any:
        return ServiceActivity(component_code="demo", id=node_id, name=node_id)

    inner = EmptyStartEvent()
    inner.extend(step("render_pages")).extend(step("upload_pages")).extend(EmptyEndEvent())
    parallel, converge = ParallelGateway(), ConvergeGateway()
    start = EmptyStartEvent()
    start.extend(step("fetch_orders")).extend(parallel).connect(
        step("poll_supplier"),
        SubProcess(start=inner, name="publish_site"),
        step("page_operator"),
        step("train_model"),
    ).converge(converge).extend(step("close_books")).extend(EmptyEndEvent())
    tree: dict[str, Any] = build_tree(start)
    return tree


if __name__ == "__main__":
    TARGET.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n")
