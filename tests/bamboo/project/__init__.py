"""A Django project as users of bamboo-pipeline have one, with Celery. Its settings say more."""

import pymysql

# A stand-in for mysqlclient, which needs a compiler.
pymysql.install_as_MySQLdb()

from tests.bamboo.project.celery import app as celery_app  # noqa: E402

__all__ = ["celery_app"]
