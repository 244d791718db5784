"""Strategies as they were written for bamboo's own app."""

from typing import Any


class Note:
    """Notes the node."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def deal_with_timeout_node(self, node_id: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.noted.append(node_id)
        return {"result": True, "message": "noted", "data": None}


class Refuse:
    """Says that it failed."""

    def deal_with_timeout_node(self, node_id: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"result": False, "message": "not now", "data": None}


class FailByHand:
    """Fails the node through bamboo's API, without a version."""

    def deal_with_timeout_node(self, node_id: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        from bamboo_engine import api
        from pipeline.eri.runtime import BambooDjangoRuntime

        result = api.forced_fail_activity(
            runtime=BambooDjangoRuntime(), node_id=node_id, ex_data="failed by hand"
        )
        return {"result": result.result, "message": result.message, "data": result.data}
