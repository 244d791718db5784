"""Settings are checked when built, and say what to write."""

import json
from pathlib import Path

import pytest

from node_timeout.domain.errors import SettingsError
from node_timeout.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SCAN_INTERVAL", "soon", "NODE_TIMEOUT_SCAN_INTERVAL"),
        ("SCAN_BATCH_SIZE", "0", "greater than or equal to 1"),
        ("QUEUE_TYPE", "stream", "'quorum' or 'classic'"),
        ("HANDLERS", "{bad json", "NODE_TIMEOUT_HANDLERS"),
        ("HANDLERS", '{"a": "no colon"}', "NODE_TIMEOUT_HANDLERS['a']"),
        ("LEASE_SECONDS", "nan", "NODE_TIMEOUT_LEASE_SECONDS"),
        ("DATABASE_URL", "just-a-name", "is not a URL"),
        ("REDIS_URL", "http://h/0", "has the scheme 'http', use one of redis, rediss, unix"),
        ("AMQP_URL", "amqp://h:port/", "has a port that is no number"),
        ("DISPATCH_QUEUE", "two words", "NODE_TIMEOUT_DISPATCH_QUEUE"),
        ("SCAN_INTERVL", "1", "did you mean NODE_TIMEOUT_SCAN_INTERVAL"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"NODE_TIMEOUT_{name}", value)
    with pytest.raises(SettingsError) as error:
        Settings()
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", "postgresql://u:hunter2@db/x?sslmode=require"),
        ("database_url", "postgresql://u:hunter2@db/x?host=a&ssl=disable"),
        ("database_url", "mysql://u:hunter2@db/x?ssl_check_hostname=false"),
        ("redis_url", "rediss://:hunter2@r/0?ssl_cert_reqs=none"),
        ("redis_url", "rediss://:hunter2@r/0?ssl%5Fcert_reqs=none"),
        ("redis_url", "rediss+sentinel://:hunter2@r/s?x=1&SSL_check_hostname=0"),
        ("amqp_url", "amqps://u:hunter2@a/?no_verify_ssl=1"),
        ("amqp_url", "amqps://u:hunter2@a/?heartbeat=5&cafile=/tmp/ca.pem"),
        ("amqp_url", "amqps://u:hunter2@a/v?verify=0"),
    ],
)
def test_no_url_decides_about_tls(name: str, url: str) -> None:
    with pytest.raises(SettingsError, match="its checks are never off") as error:
        Settings(**{name: url})
    assert "hunter2" not in str(error.value)


def test_other_parameters_of_a_url_are_let_pass() -> None:
    url = "amqps://u:p@a/?heartbeat=5"
    assert Settings(amqp_url=url).amqp_url.get_secret_value() == url


def test_a_time_may_be_given_as_a_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("RECORD_RETENTION", "P30D"), ("DISPATCH_AHEAD", " PT0.05S\n")):
        monkeypatch.setenv(f"NODE_TIMEOUT_{name}", text)
    settings = Settings(max_seconds="P1D", min_seconds="PT1S")
    assert (settings.record_retention, settings.dispatch_ahead) == (30 * 86400, 0.05)
    assert (settings.max_seconds, settings.min_seconds) == (86400, 1)
    with pytest.raises(SettingsError) as error:
        Settings(scan_interval="PT2M", lease_seconds="P1M", config_retention="P1Y", web_rate="PT5S")
    for says in (
        "NODE_TIMEOUT_SCAN_INTERVAL: Input should be less than or equal to 60",
        "NODE_TIMEOUT_LEASE_SECONDS: 'P1M' has years or months, which have no fixed length",
        "NODE_TIMEOUT_CONFIG_RETENTION: 'P1Y' has years or months",
        "NODE_TIMEOUT_WEB_RATE: Input should be a valid number",
    ):
        assert says in str(error.value)


def test_the_shortest_timeout_is_not_above_the_longest() -> None:
    assert Settings(min_seconds=5, max_seconds=5).min_seconds == 5
    with pytest.raises(SettingsError, match="MIN_SECONDS: is more than NODE_TIMEOUT_MAX_SECONDS"):
        Settings(min_seconds=6, max_seconds=5)


def test_a_key_without_its_certificate_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    with pytest.raises(SettingsError, match="NODE_TIMEOUT_TLS_KEY_FILE: is of no use without"):
        Settings(tls_key_file=tmp_path / "key")
    with pytest.raises(SettingsError, match="NODE_TIMEOUT_TLS_CA_FILE: Path does not point"):
        Settings(tls_ca_file=tmp_path / "absent")


def test_every_wrong_setting_is_listed() -> None:
    with pytest.raises(SettingsError) as error:
        Settings(scan_interval=-1, lease_seconds=0, lease_second=3)
    assert str(error.value).count("NODE_TIMEOUT_") == 3
    assert "did you mean 'lease_seconds'" in str(error.value)


def test_variables_of_others_with_our_prefix_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NODE_TIMEOUT_PORT_9464_TCP_ADDR", "10.0.0.1")
    assert Settings().engine is None


def test_a_password_is_never_in_an_error_or_a_repr() -> None:
    settings = Settings(database_url="postgresql://me:hunter2@db/x")
    assert "hunter2" not in repr(settings)
    with pytest.raises(SettingsError) as error:
        Settings(database_url="hunter2")
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None


def test_secret_files_are_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node_timeout_redis_url").write_text("redis://from-file/0\n")
    (tmp_path / "node_timeout_amqp_url").write_text("amqp://from-file/")
    monkeypatch.setenv("NODE_TIMEOUT_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("NODE_TIMEOUT_AMQP_URL", "amqp://from-environment/")
    settings = Settings()
    assert settings.redis_url.get_secret_value() == "redis://from-file/0"
    assert settings.amqp_url.get_secret_value() == "amqp://from-environment/"


def test_every_setting_has_a_default_but_those_of_features_that_are_off() -> None:
    settings = Settings()
    unset = {name for name in Settings.model_fields if getattr(settings, name) is None}
    assert unset == {
        *("engine", "engine_url", "engine_token", "engine_signing_key"),
        *("webhook_url", "webhook_token", "webhook_signing_key", "http_ca_file"),
        *("tls_ca_file", "tls_cert_file", "tls_key_file"),
        *("handle_queue", "events_queue", "metrics_port"),
        *("web_secret", "web_tls_cert_file", "web_tls_key_file"),
    }
    assert all(field.description for field in Settings.model_fields.values())


TEXTS = {
    "web_host": "0.0.0.0",
    "web_proxy_header": "X-User",
    "web_secret": "s3cret-of-the-console-" + "x" * 16,
    "reason": "late: {node_id}",
    "database_url": "postgresql://u:p@h/x",
    "redis_url": "redis://h/1",
    "amqp_url": "amqp://a/,amqp://b/",
    "engine": "http",
    "engine_url": "http://engine/",
    "engine_token": "t0ken-engine",
    "engine_signing_key": "s3cret-engine",
    "webhook_url": "http://hook/",
    "webhook_token": "t0ken-webhook",
    "webhook_signing_key": "whsec_c2VjcmV0IGtleQ==",
    "executing_pool": "pool",
    "dispatch_exchange": "exchange",
    "dispatch_queue": "dispatch",
    "handle_queue": "handle",
    "handle_queues": '{"slow": "slow-queue"}',
    "events_queue": "events",
    "queue_type": "classic",
    "handlers": '{"mine": "module:Class"}',
    "log_format": "json",
    "log_level": "DEBUG",
    "metrics_host": "0.0.0.0",
}


def test_every_text_of_a_file_or_a_variable_is_stripped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        name for name, field in Settings.model_fields.items() if "str" in str(field.annotation)
    } | {"queue_type", "log_format", "log_level", "amqp_url", "database_url", "redis_url"}
    texts |= {name for name in Settings.model_fields if "token" in name or "key" in name}
    assert texts - {"tls_key_file", "web_tls_key_file", "web_trusted_proxies"} <= set(TEXTS)
    expected = Settings(
        **{name: json.loads(text) if text.startswith("{") else text for name, text in TEXTS.items()}
    )
    for name, text in TEXTS.items():  # with a byte order mark
        (tmp_path / f"node_timeout_{name}").write_text(f"\ufeff{text}\r\n")
    with monkeypatch.context() as patch:
        patch.setenv("NODE_TIMEOUT_SECRETS_DIR", str(tmp_path))
        assert Settings() == expected
    for name, text in TEXTS.items():
        monkeypatch.setenv(f"NODE_TIMEOUT_{name.upper()}", f"\t{text} \n")
    assert Settings() == expected
    assert Settings(amqp_url=" amqp://a/ ,\n amqp://b/\n") == expected


@pytest.mark.parametrize("name", sorted(set(TEXTS) - {"queue_type", "log_format", "log_level"}))
@pytest.mark.parametrize("sign", ["\n", "\x00", "\x1b", "\u200b", "\u2028"])
def test_a_line_break_inside_a_text_is_refused(name: str, sign: str) -> None:
    text = TEXTS[name]
    value = {f"a{sign}b": "c:D"} if text.startswith("{") else f"{text[:-2]}{sign}{text[-2:]}"
    with pytest.raises(SettingsError, match=f"NODE_TIMEOUT_{name.upper()}: has a") as error:
        Settings(**{name: value})
    assert "s3cret" not in str(error.value)
    assert "t0ken" not in str(error.value)


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_an_empty_file_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    (tmp_path / "node_timeout_engine_token").write_text(value)
    monkeypatch.setenv("NODE_TIMEOUT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="ENGINE_TOKEN: is empty"):
        Settings()


@pytest.mark.parametrize("fault", ["is not UTF-8", "cannot be read"])
def test_a_secret_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file = tmp_path / "node_timeout_engine"
    if fault == "is not UTF-8":
        file.write_bytes(b"\xff\xfe")
    else:
        file.symlink_to(tmp_path / "absent")
    monkeypatch.setenv("NODE_TIMEOUT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=f"NODE_TIMEOUT_ENGINE: .*engine {fault}"):
        Settings()


def test_a_secret_file_may_be_a_link_to_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (tmp_path / "engine").write_text("http\n")
    (folder / "NODE_TIMEOUT_ENGINE").symlink_to(tmp_path / "engine")
    (folder / "of_somebody_else").mkdir()
    monkeypatch.setenv("NODE_TIMEOUT_SECRETS_DIR", str(folder))
    assert Settings().engine == "http"


def test_a_directory_of_secrets_that_is_not_there_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_TIMEOUT_SECRETS_DIR", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match=r"NODE_TIMEOUT_SECRETS_DIR: .*absent cannot be read"):
        Settings()


@pytest.mark.parametrize("host", ["a..b", "two words", "host:80", "x" * 64])
def test_a_metrics_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="METRICS_HOST: is no name or address"):
        Settings(metrics_host=host)
    assert Settings(metrics_host="::1").metrics_host == "::1"
