"""The border of node-timeout-bamboo, which runs on Python 3.9 beside what BKFlow pins."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from node_timeout.contrib.bamboo.app_settings import AppSettings
from node_timeout.contrib.bamboo_daemon.full import Full
from node_timeout.domain.errors import SettingsError
from node_timeout.setting_rules import BUILT_IN_ACTIONS, NAMES, RULES
from node_timeout.settings import Settings
from node_timeout.stores import ledger_rows
from node_timeout.stores.sql import tables

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PART = tomllib.loads((ROOT / "packaging/bamboo/pyproject.toml").read_text(encoding="utf-8"))
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKED = PART["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
DECLARED = {"django", "redis", "prometheus_client", "pipeline", "bamboo_engine"}
OF_THOSE = {"kombu"}
"""Celery's, which bamboo-pipeline cannot be without."""
OPTIONAL = {("tracing.py", "opentelemetry")}
"""Of an extra: the module does without it, see `test_without_the_api_nothing_is_done`."""
GUARDED = {
    ("contrib/bamboo/__init__.py", "node_timeout.contrib.bamboo_daemon.full"),
    ("contrib/bamboo/apps.py", "node_timeout.contrib.bamboo_daemon.full"),
    ("contrib/bamboo/management/commands/node_timeout.py", "node_timeout.cli.main"),
}
"""Imported only where all of node-timeout is installed; each is behind `is_whole`."""


def packed_files() -> list[Path]:
    """The modules that are packed, from the one list of them."""
    found: list[Path] = []
    for origin, place in PACKED.items():
        path = (ROOT / "packaging" / "bamboo" / origin).resolve()
        assert path == SOURCE / place, "each keeps its place"
        found += path.rglob("*.py") if path.is_dir() else [path] * (path.suffix == ".py")
    return sorted(found)


FILES = packed_files()
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, but for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{each.name}" for each in node.names]
            modules = [each for each in inside if (SOURCE / each.replace(".", "/")).is_dir()]
            modules += [
                each for each in inside if (SOURCE / f"{each.replace('.', '/')}.py").is_file()
            ]
            yield from modules or [node.module]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_packed_module_imports_what_is_packed_or_declared(path: Path) -> None:
    name = str(path.relative_to(SOURCE / "node_timeout"))
    for module in imported(path):
        top = module.partition(".")[0]
        assert not module.startswith("redis.asyncio"), "redis 4.1 has none"
        if top == "node_timeout":
            assert module in MODULES or (name, module) in GUARDED, module
        elif (name, top) not in OPTIONAL:
            assert top in DECLARED | OF_THOSE | sys.stdlib_module_names | {"__future__"}, module


def test_what_is_guarded_is_imported_there() -> None:
    for name, module in GUARDED:
        path = SOURCE / "node_timeout" / name
        assert module in imported(path)
        assert "is_whole()" in path.read_text(encoding="utf-8")


def test_a_packed_module_is_linted_for_python_39() -> None:
    """So that ruff refuses what Python 3.9 has not."""
    targets = WHOLE["tool"]["ruff"]["per-file-target-version"]
    patterns = [each for raw in targets for each in expanded(raw)]
    lacking = [
        name
        for path in FILES
        if path.read_text(encoding="utf-8").strip()
        and not any(fnmatch(name := str(path.relative_to(ROOT)), each) for each in patterns)
    ]
    assert lacking == []


def expanded(pattern: str) -> list[str]:
    """A glob with alternatives in braces, as globs without."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern.replace("**/", "*")]
    choices, _, after = rest.partition("}")
    return [each for choice in choices.split(",") for each in expanded(before + choice + after)]


def test_what_is_declared_is_what_is_imported() -> None:
    names = {each.partition(">")[0].replace("-", "_") for each in PART["project"]["dependencies"]}
    assert names == {"bamboo_pipeline", "django", "prometheus_client", "redis"}


def test_the_version_is_that_of_node_timeout() -> None:
    assert PART["project"]["dynamic"] == ["version"]
    assert PART["tool"]["hatch"]["version"]["path"] == "../../pyproject.toml"


# One rule in one place


def test_every_setting_is_known_by_name() -> None:
    assert set(NAMES) == set(Settings.model_fields)
    assert set(RULES) <= set(NAMES)


def test_the_built_in_actions_are_the_strategies_that_come_with_it() -> None:
    own = {
        point.name
        for point in entry_points(group="node_timeout.strategies")
        if point.dist and point.dist.name == "node-timeout"
    }
    assert own == {*BUILT_IN_ACTIONS}


def test_the_names_of_tables_and_columns_are_those_of_the_tables() -> None:
    assert [column.name for column in tables.runs.c] == [*ledger_rows.RUN_COLUMNS]
    assert {*ledger_rows.CONFIG_COLUMNS} == {*tables.configs.c.keys()} - {"expires_at"}
    names = ("CONFIGS", "RUNS", "HISTORY", "SETTINGS", "TOKENS")
    assert {getattr(ledger_rows, name) for name in names} == {*tables.metadata.tables}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"redis_url": " redis://h/1\n", "pool_shards": "3", "executing_pool": "p"},
        {"min_seconds": 1, "max_seconds": "60.5", "config_retention": 5},
        {"min_seconds": "PT1S", "max_seconds": "P1D", "config_retention": "P1W"},
        {"handlers": {"page": "module:Class"}, "engine_token": "t0ken-engine"},
        {"dispatch_queue": "q", "tls_ca_file": __file__, "database_url": "mysql://u:p@h/x"},
    ],
)
def test_both_readings_give_the_same_value(values: dict[str, Any]) -> None:
    read, whole = AppSettings.read(values), Full(values).app_settings()
    for name in RULES:
        assert getattr(read, name) == getattr(whole, name), name
    assert read.actions <= whole.actions
    assert read.agreed.items() <= whole.agreed.items()
    assert read.rules.max_seconds == whole.rules.max_seconds


@pytest.mark.parametrize(
    "values",
    [
        {"pool_shards": 0},
        {"pool_shards": 1.5},
        {"pool_shards": True},
        {"pool_shards": "1001"},
        {"executing_pool": ""},
        {"executing_pool": "x" * 201},
        {"executing_pool": 7},
        {"executing_pool": "two\nlines"},
        {"config_retention": "nan"},
        {"config_retention": "P1M"},
        {"config_retention": 0},
        {"max_seconds": "inf"},
        {"max_seconds": [1]},
        {"min_seconds": -1},
        {"min_seconds": 6, "max_seconds": 5},
        {"redis_url": "http://h/0"},
        {"redis_url": "rediss://:hunter2@h/0?ssl_cert_reqs=none"},
        {"tls_ca_file": "/no/such/file"},
        {"tls_key_file": __file__},
        {"executing_pol": "x"},
        {"redis_url": "", "pool_shards": "many"},
    ],
)
def test_both_readings_refuse_in_the_same_words(values: dict[str, Any]) -> None:
    texts = []
    for reading in (AppSettings.read, Full):
        with pytest.raises(SettingsError) as caught:
            reading(values)
        texts.append(sorted(str(caught.value).split("; NODE_TIMEOUT_")))
    assert texts[0] == texts[1]
    assert "NODE_TIMEOUT_" in texts[0][0]
    assert "hunter2" not in str(texts)


def test_no_secret_is_shown() -> None:
    read = AppSettings.read(
        {
            "redis_url": "redis://:hunter2-redis@h/0",
            "engine_token": "hunter2-token",
            "engine_signing_key": "hunter2-key",
            "database_url": "mysql://u:hunter2-db@h/x",
        }
    )
    assert "hunter2" not in repr(read)
