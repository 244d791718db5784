"""The Celery app, with a place for planted faults."""

import os
import signal
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError


class FaultyCelery(Celery):
    """While the file is there, the process dies as it sends a task, or the broker is gone."""

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        file = Path(os.environ.get("BAMBOO_TEST_FAULT", "") or os.devnull)
        if file.is_file():
            if file.read_text(encoding="utf-8") == "kill":
                file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            raise OperationalError("planted: the broker is gone")
        return super().send_task(*args, **kwargs)


app = FaultyCelery("project")
app.config_from_object("django.conf:settings")
app.autodiscover_tasks()
