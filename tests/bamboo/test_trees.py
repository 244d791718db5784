"""Trees that bamboo's own builder makes. No server is needed."""

from typing import Any

import pytest
from bamboo_engine import builder
from bamboo_engine.builder import (
    ConvergeGateway,
    EmptyEndEvent,
    EmptyStartEvent,
    ParallelGateway,
    ServiceActivity,
    SubProcess,
    build_tree,
)
from bamboo_engine.eri import NodeType

from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.pipeline_tree import PipelineTree
from node_timeout.domain.timeout_config import read_configs

RULES = ConfigRules(actions=("forced_fail",), max_seconds=1000)
GOOD = {"enable": True, "action": "forced_fail", "seconds": 10}


@pytest.mark.skipif(not hasattr(builder, "SubCanvas"), reason="bamboo-pipeline 4 has them all")
def test_every_node_type_of_bamboo_is_walked_or_named() -> None:
    assert {each.value for each in NodeType} == {
        *("ServiceActivity", "SubProcess", "SubCanvas", "EmptyStartEvent", "EmptyEndEvent"),
        *("ExclusiveGateway", "ParallelGateway", "ConditionalParallelGateway"),
        *("ConvergeGateway", "ExecutableEndEvent"),
    }, "bamboo has another type of node: is it walked?"
    inner = [ServiceActivity(component_code="sleep") for _ in range(2)]
    nesting: list[Any] = []
    for node, kind in zip(inner, (SubProcess, builder.SubCanvas), strict=True):
        begin = EmptyStartEvent()
        begin.extend(node).extend(EmptyEndEvent())
        nesting.append(kind(start=begin))
    start, parallel, converge = EmptyStartEvent(), ParallelGateway(), ConvergeGateway()
    end = EmptyEndEvent()
    start.extend(parallel).connect(*nesting).to(parallel).converge(converge).extend(end)
    tree = build_tree(start)
    nodes = PipelineTree.of(tree).nodes
    for node in nodes.values():
        node["timeout_config"] = GOOD
    found = read_configs("root", tree, RULES)
    assert {each.node_id for each in found.enabled} == {node.id for node in inner}
    named = {finding.split("'")[1] for finding in found.findings}
    assert {start.id, parallel.id, converge.id, end.id, *(node.id for node in nesting)} <= named
    assert named | {node.id for node in inner} == set(nodes)
