"""What this process knows to be secret is in no text that leaves it."""

import os
import sys
import traceback

import pytest

from node_timeout.settings import Settings
from node_timeout.stores.tls import reason_of
from node_timeout.urls import redaction
from node_timeout.urls.database import read_database_url
from node_timeout.urls.redaction import excepthook, presentable, redact, remember


@pytest.fixture(autouse=True)
def knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", redaction._Known())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("amqp://guest:s3cret@host:5672/", "amqp://guest:***@host:5672/"),
        ("redis://:s3cret@host/0", "redis://:***@host/0"),
        ("two a://u:s3cret@h and b://u:s3cret@h", "two a://u:***@h and b://u:***@h"),
        ("a://u:s3cret@one,b://u:s3cret@two", "a://u:***@one,b://u:***@two"),
        ("mysql://app:Passw0rd@2024!x@h:3306/n", "mysql://app:***@h:3306/n"),
        ("mysql://app:s3c/ret?x#y@h:3306/n", "mysql://app:***@h:3306/n"),
        ("http://host:80/path", "http://host:80/path"),
        ("postgresql://app@host/name", "postgresql://app@host/name"),
    ],
)
def test_passwords_of_urls_are_redacted(text: str, says: str) -> None:
    assert redact(text) == says


def test_a_password_is_hidden_in_each_form_and_wherever_it_stands() -> None:
    read_database_url("mysql://app:p%40ss%20w%C3%B6rd'x@h/n")
    for form in ("p@ss wörd'x", "p%40ss%20w%C3%B6rd'x", "p%40ss%20w%C3%B6rd%27x", "p@ss wörd\\'x"):
        assert redact(f"cannot reach '{form}@h'") == "cannot reach '***@h'"
    assert redact("app at h") == "app at h"


@pytest.mark.parametrize(
    ("secret", "text", "says"),
    [
        ("a", "a database at a host", "a database at a host"),
        ("abc", "abc abc", "abc abc"),
        ("root", "user 'root' of root_pipeline_id", "user '***' of root_pipeline_id"),
        ("long-enough", "xlong-enoughx", "x***x"),
    ],
)
def test_a_short_secret_does_not_blacken_every_text(secret: str, text: str, says: str) -> None:
    remember(secret)
    assert redact(text) == says
    assert redact(f"redis://:{secret}@h") == "redis://:***@h"


def test_a_password_that_is_also_the_user_is_not_secret() -> None:
    read_database_url("postgresql://node_timeout:node_timeout@h/node_timeout")
    assert redact("no table node_timeout_run") == "no table node_timeout_run"


def test_tokens_keys_and_the_path_of_the_webhook_are_known_once_they_are_set() -> None:
    Settings(
        engine_token="t0ken-of-engine",
        webhook_signing_key="whsec_c2VjcmV0IGtleQ==",
        webhook_url="https://hooks.example/T0/s3cret-path",
        amqp_url="amqp://u:s3cret-one@a,amqp://u:s3cret-two@b",
    )
    text = "t0ken-of-engine c2VjcmV0IGtleQ== /T0/s3cret-path s3cret-one s3cret-two"
    assert redact(text) == "*** *** *** *** ***"


def test_an_error_that_quotes_a_secret_is_no_cause_to_be_shown() -> None:
    remember("s3cret-word")
    sound, leaky = OSError("refused"), OSError("no host s3cret-word")
    assert presentable(sound) is sound
    assert presentable(leaky) is None
    sound.__context__ = leaky
    assert presentable(sound) is None
    assert reason_of(leaky) == "no host ***"
    with pytest.raises(RuntimeError) as shown:
        raise RuntimeError(reason_of(leaky)) from presentable(leaky)
    assert "s3cret" not in "".join(traceback.format_exception(shown.value))


def test_the_traceback_of_a_bug_is_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    remember("s3cret-word")
    try:
        raise RuntimeError("found s3cret-word" + os.sep)  # noqa: TRY301
    except RuntimeError as error:
        excepthook(type(error), error, sys.exception().__traceback__)  # type: ignore[union-attr]
    shown = capsys.readouterr().err
    assert "RuntimeError: found ***/" in shown
    assert "Traceback" in shown
