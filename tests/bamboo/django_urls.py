"""What Django is given of the URLs that everything else is given."""

from typing import Any
from urllib.parse import urlsplit


def database_of(url: str) -> dict[str, Any]:
    """An entry of ``DATABASES``, for a URL that begins with Django's name of the backend."""
    parts = urlsplit(url)
    return {
        "ENGINE": f"django.db.backends.{parts.scheme}",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
    }


def redis_of(url: str) -> dict[str, Any]:
    """bamboo-pipeline's setting ``REDIS``."""
    parts = urlsplit(url)
    return {"host": parts.hostname, "port": parts.port, "db": 0, "password": parts.password}
