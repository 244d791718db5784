"""Settings: environment variables with the prefix ``NODE_TIMEOUT_``, or secret files.

A secret file has the name of its variable in lower case (``node_timeout_database_url``). It lies in
the directory ``NODE_TIMEOUT_SECRETS_DIR`` (default ``/run/secrets``). The environment wins.
"""

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from node_timeout.domain.errors import SettingsError
from node_timeout.domain.hints import did_you_mean
from node_timeout.domain.reasons import DEFAULT_REASON, template_problem
from node_timeout.domain.timeout_config import MAX_ACTION_LENGTH
from node_timeout.domain.tokens import Role
from node_timeout.setting_rules import (
    DAY,
    LONGEST,
    PREFIX,
    RULES,
    as_seconds,
    explained,
    key_file_problem,
    min_seconds_problem,
    one_line,
    refuse_misspelt,
    variable,
)
from node_timeout.urls.addresses import Host, HostsUrl, split_urls
from node_timeout.urls.amqp import read_amqp_urls
from node_timeout.urls.database import read_database_url
from node_timeout.urls.redaction import remember
from node_timeout.urls.redis import read_redis_url
from node_timeout.urls.secret_files import read_secret_files
from node_timeout.wire.signing import SECRET_PREFIX

STORES: dict[str, Callable[[str], object]] = {
    "database_url": read_database_url,
    "redis_url": read_redis_url,
    "amqp_url": read_amqp_urls,
}
SPAN = BeforeValidator(as_seconds)
"""Seconds, or an ISO 8601 duration."""
Seconds = Annotated[float, SPAN, Field(gt=0, le=LONGEST, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
QueueName = Annotated[str, Field(min_length=1, max_length=240, pattern=r"^\S+$")]
Action = Annotated[str, Field(min_length=1, max_length=MAX_ACTION_LENGTH)]
ClassPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class Settings(BaseSettings):
    """Every setting, checked when built. Raises a `SettingsError` that lists every fault."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr = Field(
        SecretStr("postgresql://node_timeout:node_timeout@127.0.0.1:5432/node_timeout"),
        description="Database of configs and ledger: postgresql:// (host:port,host:port to fail "
        "over), mysql:// or sqlite:///",
    )
    redis_url: SecretStr = Field(
        SecretStr(RULES["redis_url"].default), description=RULES["redis_url"].meaning
    )
    amqp_url: SecretStr = Field(
        SecretStr("amqp://guest:guest@127.0.0.1:5672/"),
        description="RabbitMQ of the dispatch exchange: amqp:// or amqps://; several URLs of one "
        "cluster, separated by commas, to fail over",
    )
    database_tls: bool = Field(
        False, description="Talk TLS with the database, and verify its certificate and host name"
    )
    tls_ca_file: Path | None = Field(
        RULES["tls_ca_file"].default, description=RULES["tls_ca_file"].meaning
    )
    tls_cert_file: Path | None = Field(
        RULES["tls_cert_file"].default, description=RULES["tls_cert_file"].meaning
    )
    tls_key_file: Path | None = Field(
        RULES["tls_key_file"].default, description=RULES["tls_key_file"].meaning
    )
    engine: str | None = Field(
        None, description="Name of the engine adapter that the worker acts through; no default"
    )
    engine_threads: Annotated[int, Field(ge=1, le=1000)] = Field(
        8,
        description="Threads of the engine bamboo, each with a database connection;"
        " as many again call signal receivers",
    )
    engine_url: str | None = Field(
        None, description="Base URL of the engine http, to which /v1/… is added"
    )
    engine_survey: bool = Field(
        False,
        description="Ask the engine http for runs it never told; it then serves /v1/running too",
    )
    engine_token: SecretStr | None = Field(
        RULES["engine_token"].default, description=RULES["engine_token"].meaning
    )
    engine_signing_key: SecretStr | None = Field(
        RULES["engine_signing_key"].default, description=RULES["engine_signing_key"].meaning
    )
    webhook_url: SecretStr | None = Field(
        None, description="Where the strategy webhook posts timed-out nodes"
    )
    webhook_token: SecretStr | None = Field(
        None, description="Bearer token that the strategy webhook sends"
    )
    webhook_signing_key: SecretStr | None = Field(
        None, description="Key of the HMAC-SHA256 signature that the strategy webhook sends"
    )
    http_timeout: Annotated[float, SPAN, Field(gt=0, le=3600)] = Field(
        10.0, description="Longest duration of one HTTP call, seconds"
    )
    http_connections: Annotated[int, Field(ge=1, le=10000)] = Field(
        64, description="HTTP connections at once, of the engine and of the webhook each"
    )
    http_ca_file: FilePath | None = Field(
        None, description="File of the certificate authorities to trust; unset: the usual ones"
    )
    executing_pool: str = Field(
        RULES["executing_pool"].default, description=RULES["executing_pool"].meaning
    )
    pool_shards: int = Field(RULES["pool_shards"].default, description=RULES["pool_shards"].meaning)
    dispatch_exchange: QueueName = Field(
        "node_timeout.dispatch", description="Exchange that all queues are bound to"
    )
    dispatch_queue: QueueName = Field(
        "node_timeout.dispatch", description="Queue of the scanner's batches"
    )
    handle_queue: QueueName | None = Field(
        None, description="Queue where strategies run; unset: where the batch was received"
    )
    handle_queues: dict[Action, QueueName] = Field(
        default_factory=dict, description="JSON map of action to a handle queue of its own"
    )
    events_queue: QueueName | None = Field(
        None, description="Queue of the engine's events, read by the worker; unset: none is read"
    )
    queue_type: Literal["quorum", "classic"] = Field(
        "quorum", description="Type of all queues: quorum or classic"
    )
    reason: Annotated[str, Field(max_length=1000)] = Field(
        DEFAULT_REASON,
        description="What the engine records beside a node that was failed; {seconds} is the "
        "node's own timeout",
    )
    handlers: dict[Action, ClassPath] = Field(
        default_factory=dict,
        description="JSON map of action to module:Class, added to the installed strategies",
    )
    scan_interval: Annotated[float, SPAN, Field(ge=0.01, le=60)] = Field(
        1.0, description="Longest sleep of an idle scanner, seconds"
    )
    scan_batch_size: Annotated[int, Field(ge=1, le=1000)] = Field(
        250, description="Node runs in one claim and one message"
    )
    dispatch_ahead: Annotated[float, SPAN, Field(ge=0, le=0.5)] = Field(
        0.05,
        description="How long before its deadline a node is sent to a worker, which holds it until "
        "then, seconds",
    )
    lease_seconds: Annotated[float, SPAN, Field(ge=1, le=3600)] = Field(
        15.0, description="How long a claimed node is one scanner's alone, seconds"
    )
    worker_lease: Annotated[float, SPAN, Field(ge=1, le=3600)] = Field(
        30.0,
        description="How long a timed-out node is one worker's alone unless renewed; a killed "
        "worker's nodes are taken over after it, seconds",
    )
    redispatch_after: Seconds = Field(
        150.0,
        description="How long an overdue node that is not in the pool is waited for; it is armed "
        "again after twice that, seconds",
    )
    reconcile_pause: Seconds = Field(
        30.0, description="Rest between two sweeps of the ledger, seconds"
    )
    canary_interval: Annotated[float, SPAN, Field(ge=0, le=3600)] = Field(
        10.0,
        description="How often a scanner sends a run of its own through each shard, to see whether "
        "deadlines are dealt with, seconds; 0: never",
    )
    survey_pause: Seconds = Field(
        60.0,
        description="Rest between two rounds of asking the engine for runs it never told, seconds",
    )
    worker_concurrency: Annotated[int, Field(ge=1, le=10000)] = Field(
        64, description="Strategy calls at once in one worker"
    )
    strategy_timeout: Annotated[float, SPAN, Field(gt=0, le=86400)] = Field(
        30.0, description="Longest duration of one strategy call, seconds"
    )
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="Strategy calls for one node run before it is dead"
    )
    retry_backoff: Seconds = Field(
        1.0, description="Longest wait before the second call; it doubles with each, seconds"
    )
    retry_backoff_max: Seconds = Field(300.0, description="Longest wait between two calls, seconds")
    max_seconds: float = Field(
        RULES["max_seconds"].default, description=RULES["max_seconds"].meaning
    )
    min_seconds: float = Field(
        RULES["min_seconds"].default, description=RULES["min_seconds"].meaning
    )
    shutdown_timeout: Annotated[float, SPAN, Field(ge=0, le=DAY)] = Field(
        30.0, description="How long a stopping process finishes what is in flight, seconds"
    )
    overdue_alarm: Seconds = Field(
        60.0,
        description="How long a node may be overdue before status and check report it and exit "
        "with 1, seconds",
    )
    record_retention: Seconds = Field(
        30 * DAY, description="How long handled and stale ledger rows are kept, seconds"
    )
    dead_retention: Seconds = Field(
        90 * DAY,
        description="How long dead ledger rows are kept, unless they are replayed, seconds",
    )
    config_retention: float = Field(
        RULES["config_retention"].default, description=RULES["config_retention"].meaning
    )
    cancelled_retention: Seconds = Field(
        3600.0, description="How long cancelled ledger rows are kept, seconds"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="text, json, or auto: text on a terminal, else json"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR"
    )
    web_host: Name = Field("127.0.0.1", description="Address of the HTTP API and the console")
    web_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        8642, description="Port of the HTTP API and the console"
    )
    web_read_only: bool = Field(False, description="Refuse every request that changes something")
    web_rate: Annotated[float, Field(gt=0, le=1e6)] = Field(
        50, description="Requests a second of one token or user, on average"
    )
    web_secret: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        None,
        description="Key that signs the console's logins, 32 characters at least; unset: one that "
        "lasts as long as the process",
    )
    web_trusted_proxies: tuple[str, ...] = Field(
        (), description="JSON list of addresses of proxies whose word on who calls is taken"
    )
    web_proxy_header: Name = Field(
        "X-Forwarded-User", description="Header in which such a proxy names who calls"
    )
    web_proxy_role: Role = Field(
        Role.OPERATE, description="What those may do: read, events, operate or admin"
    )
    web_tls_cert_file: FilePath | None = Field(
        None, description="File of the certificate with which the HTTP API talks TLS"
    )
    web_tls_key_file: FilePath | None = Field(
        None, description="File of that certificate's key, unencrypted; unset: in the same file"
    )
    metrics_host: Name = Field("127.0.0.1", description="Address of the metrics and health port")
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Port of /metrics, /healthz and /readyz; unset: none"
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            # The original error is cut off: it could quote a password.
            raise SettingsError(_explain(error)) from None
        except ValueError as error:  # pydantic-settings' own; its versions name it otherwise
            name = next((name for name in type(self).model_fields if f'"{name}"' in str(error)), "")
            raise SettingsError(f"{variable(name)}: is not JSON") from None
        refuse_misspelt(os.environ)

    @field_validator("*", mode="before")
    @classmethod
    def _is_one_line(cls, value: Any, field: ValidationInfo) -> Any:
        """Strip the white space that files and copying leave at both ends; refuse any other."""
        if isinstance(value, dict):
            return {_one_line(key): _one_line(each) for key, each in value.items()}
        if field.field_name == "amqp_url" and (text := _plain(value)):
            value = ",".join(split_urls(text))  # they may stand one a line
        return _one_line(value)

    @field_validator(*RULES, mode="before")
    @classmethod
    def _keeps_its_rule(cls, value: Any, field: ValidationInfo) -> Any:
        return RULES[field.field_name or ""].read(_plain(value))

    @field_validator("database_url", "amqp_url")
    @classmethod
    def _is_url(cls, value: SecretStr, field: ValidationInfo) -> SecretStr:
        STORES[field.field_name or ""](value.get_secret_value())
        return value

    @field_validator("reason")
    @classmethod
    def _is_template(cls, value: str) -> str:
        if problem := template_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("min_seconds")
    @classmethod
    def _is_below_the_longest(cls, value: float, info: ValidationInfo) -> float:
        if problem := min_seconds_problem(value, info.data.get("max_seconds", LONGEST)):
            raise ValueError(problem)
        return value

    @field_validator("web_trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ipaddress.ip_network(each)
            except ValueError as error:
                raise ValueError(f"{each!r} is no address or network") from error
        return value

    @field_validator("tls_key_file")
    @classmethod
    def _has_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if problem := key_file_problem(value, info.data.get("tls_cert_file", value)):
            raise ValueError(problem)
        return value

    @field_validator("engine_url", "webhook_url")
    @classmethod
    def _is_http(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        text = _plain(value)
        if not text:
            return value
        url = HostsUrl.parse(text)
        if url.scheme not in ("http", "https") or len(url.hosts) > 1 or not url.hosts[0].name:
            raise ValueError("is not an http:// or https:// URL")
        if url.login or url.query:
            raise ValueError("has a user, a query or a fragment; secrets are settings of their own")
        if isinstance(value, SecretStr):
            remember(url.path)  # often holds a key
        return value

    @field_validator("metrics_host", "web_host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        try:
            Host.parse(f"[{value}]" if ":" in value else value)
        except ValueError:
            raise ValueError("is no name or address of a host") from None
        return value

    @model_validator(mode="after")
    def _remember_secrets(self) -> Self:
        for name in (
            *("engine_token", "engine_signing_key"),
            *("webhook_token", "webhook_signing_key", "web_secret"),
        ):
            if secret := getattr(self, name):
                remember(secret.get_secret_value())
                remember(secret.get_secret_value().removeprefix(SECRET_PREFIX))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # pydantic's own source passes over a file that it cannot read, or that is a link.
        files = EnvSettingsSource(settings_cls)
        files.env_vars = read_secret_files([variable(name) for name in settings_cls.model_fields])
        return init_settings, env_settings, files


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _one_line(value: Any) -> Any:
    text = _plain(value)
    if not isinstance(text, str):
        return value
    text = one_line(text)
    return SecretStr(text) if isinstance(value, SecretStr) else text


def _explain(error: ValidationError) -> str:
    problems = []
    for fault in error.errors(include_url=False, include_input=False):
        name = str(fault["loc"][0]) if fault["loc"] else "settings"
        where = "".join(f"[{part!r}]" for part in fault["loc"][1:] if part != "[key]")
        problem = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            problem = f"unknown setting{did_you_mean(name, Settings.model_fields)}"
        field = Settings.model_fields.get(name)
        description = field.description if field else None
        problems.append(explained(name, problem, description, where))
    return "; ".join(problems)
