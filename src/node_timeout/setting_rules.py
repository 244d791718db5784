"""The names of all settings, and the rules for those that an engine's own process also has.

`settings` has all settings, for the daemon; `contrib.bamboo.app_settings` has those listed in
`RULES`. Each rule and its error text are in this module only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from node_timeout.domain.durations import parse_duration
from node_timeout.domain.errors import InvalidInputError, SettingsError
from node_timeout.domain.hints import nearest
from node_timeout.older_python import dataclass
from node_timeout.urls.redis import read_redis_url
from node_timeout.urls.secret_files import SECRETS_DIR, read_secret_files

PREFIX = "NODE_TIMEOUT_"
DAY = 86400.0
LONGEST = 100 * 366 * DAY
"""The longest duration, in seconds: any instant computed with it is still a valid date."""
BUILT_IN_ACTIONS = ("forced_fail", "forced_fail_and_skip", "webhook")
"""The actions whose strategies come with node-timeout."""
NAMES = (
    *("database_url", "redis_url", "amqp_url"),
    *("database_tls", "tls_ca_file", "tls_cert_file", "tls_key_file"),
    *("engine", "engine_threads", "engine_url", "engine_survey"),
    *("engine_token", "engine_signing_key"),
    *("webhook_url", "webhook_token", "webhook_signing_key"),
    *("http_timeout", "http_connections", "http_ca_file", "executing_pool", "pool_shards"),
    *("dispatch_exchange", "dispatch_queue", "handle_queue", "handle_queues", "events_queue"),
    *("queue_type", "reason", "handlers", "scan_interval", "scan_batch_size", "dispatch_ahead"),
    *("lease_seconds", "worker_lease", "redispatch_after", "reconcile_pause"),
    *("canary_interval", "survey_pause"),
    *("worker_concurrency", "strategy_timeout", "max_attempts"),
    *("retry_backoff", "retry_backoff_max", "max_seconds", "min_seconds", "shutdown_timeout"),
    *("overdue_alarm", "record_retention", "dead_retention", "config_retention"),
    *("cancelled_retention", "log_format", "log_level", "metrics_host", "metrics_port"),
    *("web_host", "web_port", "web_read_only", "web_rate", "web_secret"),
    *("web_trusted_proxies", "web_proxy_header", "web_proxy_role"),
    *("web_tls_cert_file", "web_tls_key_file"),
)
"""The name of every setting."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def explained(name: str, problem: str, meaning: str | None, where: str = "") -> str:
    """The error text: what is wrong with a setting, and what the setting is for."""
    return f"{variable(name)}{where}: {problem}" + (f" ({meaning})" if meaning else "")


def refuse_misspelt(environment: Iterable[str]) -> None:
    """Refuse a variable whose name is nearly that of a setting; ignore others with our prefix.

    Raises `SettingsError`.
    """
    known = [variable(name) for name in NAMES] + [SECRETS_DIR]
    for name in environment:
        misspelt = name.startswith(PREFIX) and name.upper() not in known
        if misspelt and (close := nearest(name, known, likeness=0.9)):
            raise SettingsError(f"{name} is no setting, did you mean {close}?")


def said_elsewhere() -> dict[str, str]:
    """The settings given by the environment and by secret files; empty values do not count.

    Raises `SettingsError` for a file that cannot be read.
    """
    names = {variable(name): name for name in NAMES}
    files = {name.upper(): text for name, text in read_secret_files(names).items()}
    environment = {name.upper(): value for name, value in os.environ.items()}
    return {
        name: text
        for each, name in names.items()
        if (text := environment.get(each) or files.get(each))
    }


def one_line(text: str) -> str:
    """Strip the white space that files and copying leave at both ends; refuse any other.

    Raises ValueError.
    """
    text = text.strip()
    if not text:
        raise ValueError("is empty, leave it out for the default")
    if not text.isprintable():
        raise ValueError("has a line break or another character that cannot be printed")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rule of one setting."""

    default: Any
    meaning: str
    read: Callable[[Any], Any]
    """Turns a text or another value into the setting's value. Raises a ValueError that says what is
    wrong with it.
    """


def _text(value: Any, longest: int = 10_000) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {type(value).__name__}, not text")  # noqa: TRY004 - as all others
    text = one_line(value)
    if len(text) > longest:
        raise ValueError(f"has {len(text)} characters, at most {longest} are allowed")
    return text


def _name(value: Any) -> str:
    return _text(value, 200)


def _redis_url(value: Any) -> str:
    text = _text(value)
    read_redis_url(text)
    return text


def _file(value: Any) -> Path | None:
    if value is None:
        return None
    path = value if isinstance(value, Path) else Path(_text(value))
    if not path.is_file():
        raise ValueError("Path does not point to a file")
    return path


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(one_line(value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return math.nan


def as_seconds(value: Any) -> Any:
    """Convert an ISO 8601 duration to seconds; return other values unchanged. Raises ValueError."""
    if not isinstance(value, str) or not value.strip().startswith("P"):
        return value
    try:
        return parse_duration(value.strip())
    except InvalidInputError as error:
        raise ValueError(str(error)) from None


def _seconds(value: Any) -> float:
    number = _number(as_seconds(value))
    if not 0 < number <= LONGEST:  # NaN fails both comparisons
        raise ValueError(f"is not a number greater than 0 and at most {LONGEST:.15g}")
    return number


def _seconds_or_none(value: Any) -> float:
    number = _number(as_seconds(value))
    if not 0 <= number <= LONGEST:
        raise ValueError(f"is not a number from 0 to {LONGEST:.15g}")
    return number


def _shards(value: Any) -> int:
    number = _number(value)
    if not 1 <= number <= 1000 or not number.is_integer():  # noqa: PLR2004 - said below
        raise ValueError("is not a whole number from 1 to 1000")
    return int(number)


def _secret(value: Any) -> str | None:
    return None if value is None else _text(value)


RULES = {
    "redis_url": Rule(
        default="redis://127.0.0.1:6379/0",
        meaning="Redis or Valkey of the executing pool: redis://, rediss://, unix://, "
        "redis+cluster://, redis+sentinel://",
        read=_redis_url,
    ),
    "tls_ca_file": Rule(
        default=None,
        meaning="File of the certificate authorities to trust for Redis, RabbitMQ and the "
        "database; unset: the system's",
        read=_file,
    ),
    "tls_cert_file": Rule(
        default=None,
        meaning="File of the certificate to show to Redis, RabbitMQ and the database",
        read=_file,
    ),
    "tls_key_file": Rule(
        default=None,
        meaning="File of that certificate's key, unencrypted; unset: in the same file",
        read=_file,
    ),
    "engine_token": Rule(
        default=None,
        meaning="Bearer token that the engine http sends, and that our Django app asks for",
        read=_secret,
    ),
    "engine_signing_key": Rule(
        default=None,
        meaning="Key of the HMAC-SHA256 signature that the engine http sends, and that our Django "
        "app asks for",
        read=_secret,
    ),
    "executing_pool": Rule(
        default="executing_node_pool",
        meaning="Key of the Redis ZSET that holds the deadlines",
        read=_name,
    ),
    "pool_shards": Rule(
        default=1,
        meaning="Redis keys that the pool is split into; the same in every process",
        read=_shards,
    ),
    "max_seconds": Rule(
        default=366 * DAY, meaning="Longest timeout of a node, seconds", read=_seconds
    ),
    "min_seconds": Rule(
        default=0.0, meaning="Shortest timeout of a node, seconds", read=_seconds_or_none
    ),
    "config_retention": Rule(
        default=7 * DAY,
        meaning="How long the configs of a root pipeline are kept after it has ended, seconds",
        read=_seconds,
    ),
}


def min_seconds_problem(min_seconds: float, max_seconds: float) -> str | None:
    return f"is more than {variable('max_seconds')}" if min_seconds > max_seconds else None


def key_file_problem(key_file: Path | None, cert_file: Path | None) -> str | None:
    needs = key_file is not None and cert_file is None
    return f"is of no use without {variable('tls_cert_file')}" if needs else None


def json_object(value: Any) -> Mapping[str, Any]:
    """Read a map, or the JSON text of one. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("is not JSON") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"is {type(value).__name__}, not a map")  # noqa: TRY004 - as all others
    return value
