"""What the app can do only if all of node-timeout is installed."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import SecretStr

from node_timeout.blocking import BlockingNodeTimeout, require_native_threads
from node_timeout.contrib.bamboo.app_settings import AppSettings
from node_timeout.setting_rules import RULES
from node_timeout.settings import Settings
from node_timeout.stores.sql.schema import Schema
from node_timeout.stores.tls import Tls
from node_timeout.strategies.base import known_actions
from node_timeout.wiring import agreed_settings

CALL_SECONDS = 5.0
"""The time limit of a call over our own connections."""


class Full:
    """All settings of a project, and what needs all of them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Raises `SettingsError`."""
        self.settings = Settings(**values)

    def app_settings(self) -> AppSettings:
        settings = self.settings
        return AppSettings(
            **{name: _plain(getattr(settings, name)) for name in RULES},
            database_url=settings.database_url.get_secret_value(),
            database_tls=settings.database_tls,
            actions=known_actions(settings.handlers),
            agreed=agreed_settings(settings),
        )

    def bridge(self) -> BlockingNodeTimeout:
        """It connects at its first call; if threads are greenlets, every call raises."""
        return BlockingNodeTimeout(self.settings, call_timeout=CALL_SECONDS)

    def require_native_threads(self) -> None:
        """Raises `GreenThreadsError`."""
        require_native_threads()

    def migrate(self) -> str | None:
        """Create the tables, or bring them to this version; return their revision."""
        settings = self.settings
        schema = Schema(settings.database_url.get_secret_value(), tls=Tls.of(settings))

        async def go() -> str | None:
            try:
                return await schema.migrate()
            finally:
                await schema.close()

        with ThreadPoolExecutor(1) as thread:  # the caller may have a running event loop
            return thread.submit(asyncio.run, go()).result()


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
