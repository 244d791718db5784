"""The settings of bamboo-pipeline's own suites, on our servers, with our app if it is asked for."""

import os

import pymysql

pymysql.install_as_MySQLdb()

from pipeline_sdk_use.settings import *  # noqa: E402, F403 - from the checkout
from pipeline_sdk_use.settings import INSTALLED_APPS as THEIRS  # noqa: E402
from pipeline_sdk_use.settings import app  # noqa: E402

from tests.bamboo.django_urls import database_of, redis_of  # noqa: E402

WITHOUT = ("pipeline.contrib.node_timeout", "pipeline.contrib.rollback")
"""bamboo's own app beside ours would deal with each node twice."""

INSTALLED_APPS = [
    *(each for each in THEIRS if each not in WITHOUT),
    *filter(None, [os.environ.get("SUITES_APP")]),
]
SILENCED_SYSTEM_CHECKS = ["admin.E408", "admin.E409", "admin.E410"]
MIDDLEWARE: list[str] = []
"""Nobody looks at their admin pages; theirs names one that Django has no longer."""
DATABASES = {"default": database_of(os.environ["SUITES_DATABASE"])}
REDIS = redis_of(os.environ["SUITES_REDIS"])
NODE_TIMEOUT = {"redis_url": os.environ["SUITES_REDIS"]}
LOGGING = {"version": 1, "root": {"level": "ERROR"}}
BROKER_URL = app.conf.broker_url = os.environ["SUITES_AMQP"]
