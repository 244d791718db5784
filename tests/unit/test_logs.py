"""Log lines: one JSON object each, ids as fields, no passwords."""

import io
import json
import logging
import sys

import pytest

from node_timeout.logs import JsonFormatter, TextFormatter, configure


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("node_timeout.worker", logging.INFO, "f", 1, message, (), None)
    vars(made).update(extra)
    return made


def test_json_lines_carry_the_ids() -> None:
    line = JsonFormatter().format(record("done", node_id="n1", version="v1", other="x"))
    parsed = json.loads(line)
    assert (parsed["node_id"], parsed["version"], parsed["message"]) == ("n1", "v1", "done")
    assert "other" not in parsed


def test_a_traceback_is_redacted_too() -> None:
    try:
        raise OSError("cannot reach amqp://u:s3cret@h/")  # noqa: TRY301
    except OSError:
        failed = record("failed", exc_info=sys.exc_info())
    for formatter in (JsonFormatter(), TextFormatter()):
        line = formatter.format(failed)
        assert "s3cret" not in line
        assert "OSError" in line


def test_auto_is_json_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        configure("auto", "INFO")
        logging.getLogger("node_timeout.worker").info("hello")
        assert json.loads(stream.getvalue())["message"] == "hello"
        configure("text", "ERROR")
        logging.getLogger("node_timeout.worker").error("oh")
        assert stream.getvalue().endswith("ERROR   worker: oh\n")
    finally:
        root.handlers[:], root.level = handlers, level
        logging.getLogger("node_timeout").setLevel(logging.NOTSET)
        for noisy in ("aiormq", "aio_pika"):
            logging.getLogger(noisy).setLevel(logging.NOTSET)
