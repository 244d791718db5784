"""Django settings of the original's side: connections to the database are kept."""

from urllib.parse import urlsplit

import pymysql

from benchmarks.sides import common

pymysql.install_as_MySQLdb()

_stores = common.stores()

SECRET_KEY = "not a secret"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = [
    "pipeline",
    "pipeline.eri",
    "pipeline.contrib.node_timeout",
]

_url = urlsplit(_stores.database)
DATABASES = {
    "default": {
        "ENGINE": f"django.db.backends.{_url.scheme}",
        "NAME": _url.path.lstrip("/"),
        "USER": _url.username or "",
        "PASSWORD": _url.password or "",
        "HOST": _url.hostname or "",
        "PORT": _url.port or "",
        "CONN_MAX_AGE": None,
    }
}

_redis = urlsplit(_stores.redis)
REDIS = {"host": _redis.hostname, "port": _redis.port, "password": _redis.password}

LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "ERROR"},
}

PIPELINE_NODE_TIMEOUT_DISPATCH_QUEUE = "node_timeout_dispatch"
PIPELINE_NODE_TIMEOUT_HANDLE_QUEUE = "node_timeout_handle"
