"""Settings are checked when built, and say what to write."""

from pathlib import Path

import pytest

from node_timeout.errors import SettingsError
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
    }
    assert all(field.description for field in Settings.model_fields.values())
