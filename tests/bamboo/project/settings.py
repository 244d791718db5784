"""Django settings; what differs from run to run is in the environment."""

import json
import os

from pipeline.eri.celery.queues import CELERY_QUEUES, QueueResolver

from tests.bamboo.django_urls import database_of, redis_of

# For pipelines whose engine has bamboo's own app, not ours; and for those in other pools of Celery.
CELERY_QUEUES = [
    *CELERY_QUEUES,
    *QueueResolver("dropin").queues(),
    *QueueResolver("pools").queues(),
]

SECRET_KEY = "not a secret"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
USE_TZ = True
TIME_ZONE = "Asia/Shanghai"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_celery_beat",
    "pipeline",
    "pipeline.engine",
    "pipeline.component_framework",
    "pipeline.variable_framework",
    "pipeline.eri",
    *json.loads(os.environ["BAMBOO_TEST_APPS"]),
    "tests.bamboo.project",
]

ROOT_URLCONF = "tests.bamboo.project.urls"
STATIC_URL = "/static/"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": database_of(os.environ["BAMBOO_TEST_DATABASE_URL"])
    | {"ATOMIC_REQUESTS": "BAMBOO_TEST_ATOMIC" in os.environ}
}

REDIS = redis_of(os.environ["BAMBOO_TEST_REDIS_URL"])
BROKER_URL = os.environ["BAMBOO_TEST_BROKER_URL"]
CELERY_TASK_IGNORE_RESULT = True
CELERYD_HIJACK_ROOT_LOGGER = False
CELERYD_PREFETCH_MULTIPLIER = 1

# Silences every logger that exists when it is applied, as Django's documentation has it.
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "ERROR"},
}

NODE_TIMEOUT = {
    "database_url": os.environ.get(
        "BAMBOO_TEST_LEDGER_URL", os.environ["BAMBOO_TEST_DATABASE_URL"]
    ),
    "redis_url": os.environ["BAMBOO_TEST_REDIS_URL"],
}

if "BAMBOO_TEST_OLD_HANDLER" in os.environ:
    from tests.bamboo.project.old import FailByHand

    PIPELINE_NODE_TIMEOUT_HANDLER = {"by_hand": FailByHand()}
    NODE_TIMEOUT |= {"amqp_url": os.environ["BAMBOO_TEST_BROKER_URL"]}
