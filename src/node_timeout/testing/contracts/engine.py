"""What every engine adapter must do: a pytest suite with fixtures ``engine`` and ``expendable``.

    from node_timeout.testing.contracts.engine import *

``engine`` is the adapter; ``expendable`` is a `TimedOutNode` that runs in the engine and may be
failed and skipped. The test file provides both fixtures.
"""

import pytest

from node_timeout.domain.run import TimedOutNode
from node_timeout.ports.engine import Engine
from node_timeout.testing.conformance import (
    NODE_RULES,
    SAFE_RULES,
    Act,
    NodeRule,
    SafeRule,
    fail,
    name_of,
    skip,
)


@pytest.mark.parametrize("rule", SAFE_RULES, ids=name_of)
async def test_of_what_is_unknown(engine: Engine, rule: SafeRule) -> None:
    await rule(engine)


@pytest.mark.parametrize("act", [fail, skip])
@pytest.mark.parametrize("rule", NODE_RULES, ids=name_of)
async def test_of_a_running_node(
    engine: Engine, expendable: TimedOutNode, rule: NodeRule, act: Act
) -> None:
    await rule(engine, expendable, act)
