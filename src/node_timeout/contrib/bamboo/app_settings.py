"""The settings that the engine's own process needs, as a plain value.

If all of node-timeout is installed, they come from its `Settings`. Otherwise they are read here, by
the same names and rules.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from node_timeout.domain.config_check import ConfigRules
from node_timeout.domain.errors import SettingsError
from node_timeout.domain.hints import did_you_mean
from node_timeout.older_python import Self, dataclass
from node_timeout.setting_rules import (
    BUILT_IN_ACTIONS,
    NAMES,
    RULES,
    explained,
    json_object,
    key_file_problem,
    min_seconds_problem,
    one_line,
    refuse_misspelt,
    variable,
)
from node_timeout.urls.database import read_database_url
from node_timeout.urls.redaction import remember
from node_timeout.wire.signing import SECRET_PREFIX

AGREED = ("executing_pool", "pool_shards")
"""The settings that must be the same in an engine's process and in the scanners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSettings:
    """Checked when built; its repr shows no secret."""

    database_url: str | None = field(repr=False)
    """None: the ledger is in the project's default database."""
    database_tls: bool = False
    redis_url: str = field(repr=False)
    tls_ca_file: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None
    executing_pool: str
    pool_shards: int
    min_seconds: float
    max_seconds: float
    config_retention: float
    actions: frozenset[str]
    """The actions that a timeout config may name."""
    agreed: Mapping[str, str]
    """The settings that must be the same in other processes, by the name that users know."""
    engine_token: str | None = field(repr=False)
    engine_signing_key: str | None = field(repr=False)

    @property
    def rules(self) -> ConfigRules:
        """The rules that a timeout config must keep."""
        return ConfigRules(
            actions=self.actions, max_seconds=self.max_seconds, min_seconds=self.min_seconds
        )

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Build from values by name. Raises a `SettingsError` that lists every fault.

        ``values`` may include settings that only scanners and workers need; they check those.
        """
        reading = _Reading(values)
        found = reading.all()
        problems = reading.problems
        if not problems:
            for name, problem in (
                ("min_seconds", min_seconds_problem(found["min_seconds"], found["max_seconds"])),
                ("tls_key_file", key_file_problem(found["tls_key_file"], found["tls_cert_file"])),
            ):
                if problem:
                    problems.append(explained(name, problem, RULES[name].meaning))
        if problems:
            raise SettingsError("; ".join(problems))
        refuse_misspelt(os.environ)
        for secret in filter(None, (found["engine_token"], found["engine_signing_key"])):
            remember(secret)
            remember(secret.removeprefix(SECRET_PREFIX))
        agreed = {variable(name): str(found[name]) for name in AGREED}
        return cls(agreed=agreed, **found)


class _Reading:
    """Reads each setting by its rule, and collects the faults."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: _plain(value) for name, value in values.items()}
        self.problems = [
            explained(name, f"unknown setting{did_you_mean(name, NAMES)}", None)
            for name in values
            if name not in NAMES
        ]

    def all(self) -> dict[str, Any]:
        found = {name: self._one(name) for name in RULES}
        found["database_url"] = self._database_url()
        found["actions"] = self._actions()
        return found

    def _one(self, name: str) -> Any:
        rule = RULES[name]
        if name not in self._values:
            return rule.default
        try:
            return rule.read(self._values[name])
        except ValueError as error:
            self.problems.append(explained(name, str(error), rule.meaning))
            return rule.default

    def _database_url(self) -> str | None:
        url = self._values.get("database_url")
        if url is None:
            return None
        try:
            url = one_line(str(url))
            read_database_url(url)
        except ValueError as error:
            self.problems.append(explained("database_url", str(error), None))
        return str(url)

    def _actions(self) -> frozenset[str]:
        """The built-in actions and the names in ``handlers``; only the worker loads the classes."""
        try:
            handlers = json_object(self._values.get("handlers", {}))
        except ValueError as error:
            self.problems.append(explained("handlers", str(error), None))
            handlers = {}
        return frozenset(BUILT_IN_ACTIONS) | {str(action) for action in handlers}


def _plain(value: Any) -> Any:
    """The text of a pydantic secret; other values unchanged."""
    reveal = getattr(value, "get_secret_value", None)
    return value if reveal is None else reveal()
