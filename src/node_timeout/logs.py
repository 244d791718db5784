"""Log lines for the daemon: text on a terminal, JSON otherwise. The library never calls this."""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Literal

from node_timeout.urls.redaction import redact

FIELDS = ("node_id", "version", "root_pipeline_id", "action", "state", "attempt", "queue")


def configure(log_format: Literal["auto", "text", "json"], level: str) -> None:
    """Send log lines to standard error."""
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("node_timeout").setLevel(level)
    # Their connection errors reach us as exceptions, and we log each of them once.
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


class TextFormatter(logging.Formatter):
    """``12:00:00.123 INFO  scanner: …``, local time."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.name.removeprefix("node_timeout.")
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {name}: "
        return redact(line + record.getMessage() + _traceback(self, record, "\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object per line; ``time`` is ISO 8601 in UTC; lines about a node have its ids."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = redact(_traceback(self, record, ""))
        return json.dumps(line, ensure_ascii=False, default=str)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord, before: str) -> str:
    return before + formatter.formatException(record.exc_info) if record.exc_info else ""
