"""Event source for bamboo-engine: put ``node_timeout.contrib.bamboo`` into INSTALLED_APPS.

The settings are those of the environment; ``NODE_TIMEOUT``, a dict in the Django settings, wins:

    NODE_TIMEOUT = {"database_url": "mysql://…", "redis_url": "redis://…"}
"""

from functools import cache

from node_timeout.blocking import BlockingNodeTimeout
from node_timeout.settings import Settings

default_app_config = "node_timeout.contrib.bamboo.apps.NodeTimeoutConfig"

CALL_SECONDS = 5.0


@cache
def client() -> BlockingNodeTimeout:
    """The process's client with the settings of the project, to store configs for example.

    Raises `SettingsError`. No call of it takes longer than `CALL_SECONDS`.
    """
    from django.conf import settings  # noqa: PLC0415 - Django is not needed to import this

    return BlockingNodeTimeout(
        Settings(**getattr(settings, "NODE_TIMEOUT", {})), call_timeout=CALL_SECONDS
    )
