"""What `from node_timeout import …` gives, and that it is quick to give nothing."""

import subprocess
import sys

import pytest

import node_timeout
from node_timeout.domain.errors import NodeTimeoutError

NAMES = {
    "GiveBackReport",
    "RunPage",
    "Process",
    "ServiceState",
    "apply_node_timeout_configs",
    "apply_node_timout_configs",
    "batch_create_node_timeout_config",
    "NodeTimeout",
    "BlockingNodeTimeout",
    "NodeTimeoutStrategy",
    "ForcedFailStrategy",
    "ForcedFailAndSkipStrategy",
    "StrategyResult",
    "TimedOutNode",
    "NodeRun",
    "NodeStarted",
    "RunState",
    "HistoryEntry",
    "HistoryKind",
    "LedgerRow",
    "Status",
    "ImportReport",
    "Engine",
    "CheckableEngine",
    "SurveyableEngine",
    "TimeoutConfig",
    "Settings",
}


def test_exactly_the_promised_names_are_public() -> None:
    errors = {name for name in node_timeout.__all__ if name.endswith("Error")}
    assert set(node_timeout.__all__) - errors == NAMES
    for name in errors:
        assert issubclass(getattr(node_timeout, name), NodeTimeoutError)
    assert set(dir(node_timeout)) == set(node_timeout.__all__)


def test_the_old_spelling_is_the_same_function() -> None:
    old = vars(node_timeout)["__getattr__"]("apply_node_timout_configs")
    assert old is node_timeout.apply_node_timeout_configs


def test_every_error_is_public() -> None:
    from node_timeout.domain import errors

    every = {name for name in vars(errors) if name.endswith("Error")}
    assert every == {name for name in node_timeout.__all__ if name.endswith("Error")}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vars(node_timeout)["__getattr__"]("nothing")


def test_the_command_line_imports_no_driver() -> None:
    heavy = ("pydantic", "sqlalchemy", "redis", "aio_pika", "rich", "alembic")
    code = f"import sys, node_timeout.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
