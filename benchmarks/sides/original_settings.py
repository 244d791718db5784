"""Django settings of the original's side: connections to the database are kept."""

import pymysql

from benchmarks.sides import common
from tests.bamboo.django_urls import database_of, redis_of

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

DATABASES = {"default": database_of(_stores.database) | {"CONN_MAX_AGE": None}}

REDIS = redis_of(_stores.redis)

LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "ERROR"},
}

PIPELINE_NODE_TIMEOUT_DISPATCH_QUEUE = "node_timeout_dispatch"
PIPELINE_NODE_TIMEOUT_HANDLE_QUEUE = "node_timeout_handle"
