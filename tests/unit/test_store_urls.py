"""A URL that cannot work is refused before anything is connected, and nothing secret is quoted."""

from typing import Any

import pytest

from node_timeout.domain.errors import SettingsError
from node_timeout.settings import Settings
from node_timeout.urls.amqp import read_amqp_urls
from node_timeout.urls.database import read_database_url
from node_timeout.urls.redis import read_redis_url

URLS = {
    "database_url": "mysql://app:{}@127.0.0.1:3306/name",
    "redis_url": "redis://:{}@127.0.0.1:6379/0",
    "amqp_url": "amqp://one,amqp://app:{}@127.0.0.1:5672/",
    "engine_url": "https://app:{}@127.0.0.1/",
    "webhook_url": "https://app:{}@127.0.0.1/",
}
NOT_ENCODED = [
    *("s3cret@2024", "s3cret/x", "12/s3cret", "s3cret?x", "12?s3cret", "s3cret#x", "12#s3cret"),
    *(
        "s3cret[b",
        "s3cret]",
        "s3cret x",
        "s3cret\tx",
        "s3cret：x",
        "s3crét",
        "s3cret%",
        "s3cret%zz",
    ),
    *("s3cret%ff", "s3cret\\x", 's3cret"x', "s3cret<x", "s3cret%0A"),
]


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize("password", NOT_ENCODED)
def test_a_password_that_is_not_encoded_is_refused_by_name(name: str, password: str) -> None:
    with pytest.raises(SettingsError, match=f"^NODE_TIMEOUT_{name.upper()}: has a ") as error:
        Settings(**{name: URLS[name].format(password)})
    said = str(error.value)
    assert "'@' as %40" in said or "cannot be printed" in said
    assert "s3cr" not in said
    assert "2024" not in said
    assert error.value.__cause__ is None


@pytest.mark.parametrize("url", ["redis://s3cret/x@h/0", "mysql://a:b@c@h/x", "postgresql://ü:p@h"])
def test_a_user_that_is_not_encoded_is_refused_too(url: str) -> None:
    read = read_redis_url if url.startswith("redis") else read_database_url
    with pytest.raises(ValueError, match="percent-encoded"):
        read(url)


@pytest.mark.parametrize("password", ["%40%2F%3F%23%5B%3A%20%25", "a:b", "a+b,c!$&'()*;=-._~", ""])
def test_what_is_encoded_comes_through(password: str) -> None:
    plain = password.replace("%40%2F%3F%23%5B%3A%20%25", "@/?#[: %")
    assert read_database_url(f"mysql://us%40er:{password}@h/x").password == plain
    assert read_database_url(f"mysql://us%40er:{password}@h/x").user == "us@er"
    assert read_redis_url(f"redis://u:{password}@h").password == plain
    (node,) = read_amqp_urls(f"amqp://u:{password}@h/v?heartbeat=5")
    assert node.address == f"amqp://u:{password}@h/v"


@pytest.mark.parametrize(
    ("name", "url", "says"),
    [
        ("database_url", "postgresql://h/x?aplication_name=nt", "did you mean 'application_name'?"),
        ("database_url", "postgresql://h/x?search_path=a", "known: application_name, options"),
        ("database_url", "postgresql://h/x?server_settings=a", "write options=-c%20name=value"),
        ("database_url", "postgresql://h/x?password=s3cret", "belongs before the host"),
        ("database_url", "postgresql://h/x?user=s3cret", "belongs before the host"),
        ("database_url", "postgresql://h/x?dbname=y", "belongs into the path"),
        ("database_url", "postgresql://h/x?client_encoding=latin1", "cannot be chosen"),
        ("database_url", "postgresql://h/x?channel_binding=require", "is none of disable, prefer"),
        ("database_url", "postgresql://h/x?connect_timeout=soon", "a number from 0.1 to 3600"),
        ("database_url", "postgresql://h/x?connect_timeout=nan", "a number from 0.1 to 3600"),
        ("database_url", "postgresql://h/x?statement_cache_size=1.5", "is not a whole number"),
        ("database_url", "postgresql://h/x?statement_cache_size=-1", "is not a whole number"),
        ("database_url", "postgresql://h/x?target_session_attrs=standby", "is none of any"),
        ("database_url", "postgresql://h/x?options=", "parameter options that is empty"),
        ("database_url", "postgresql://h/x?options=a&options=b", "options twice"),
        ("database_url", "postgresql://h/x?options", "not written as ?name=value"),
        ("database_url", "postgresql://h/x?options=%ff", "not written as ?name=value"),
        ("database_url", "postgresql://one/x?host=two", "write one of both"),
        ("database_url", "postgresql:///x?port=1", "write one of both"),
        ("database_url", "postgresql+psycopg://h/x", "has the scheme 'postgresql+psycopg'"),
        ("database_url", "PostgreSQL://h/x", "has the scheme 'PostgreSQL', use one of"),
        ("database_url", "mysql://h/x?charset=utf8", "charset, which cannot be chosen"),
        ("database_url", "mysql://h/x?read_default_file=/etc/my.cnf", "unknown parameter"),
        ("database_url", "mysql://h/x?autocommit=true", "unknown parameter"),
        ("database_url", "mariadb://h", "names no database"),
        ("database_url", "sqlite://", "names no file"),
        ("database_url", "sqlite:///:memory:", "names no file"),
        ("database_url", "sqlite://relative.db", "write sqlite:/// before the path"),
        ("database_url", "sqlite:///x.db?mode=ro", "unknown parameter 'mode'"),
        ("redis_url", "redis://h/db5", "is no number of a database"),
        ("redis_url", "redis://h/-1", "is no number of a database"),
        ("redis_url", "redis://h/5/6", "is no number of a database"),
        ("redis_url", "redis://h/99999999999", "is no number of a database"),
        ("redis_url", "redis://h?db=-1", "a parameter db that is not a whole number"),
        ("redis_url", "redis://h/5?db=5", "write one of both"),
        ("redis_url", "redis://h?socket_timeout=long", "a number from 0.1 to 3600"),
        ("redis_url", "redis://h?decode_responses=true", "unknown parameter"),
        ("redis_url", "redis://h?client_nam=x", "did you mean 'client_name'?"),
        ("redis_url", "redis://h?password=s3cret", "belongs before the host"),
        ("redis_url", "redis://s3cret@h", "write redis://:password@host"),
        ("redis_url", "redis+cluster://a,b/1", "a cluster has none"),
        ("redis_url", "redis+cluster://a,b?db=1", "a cluster has none"),
        ("redis_url", "redis+cluster://", "has no host"),
        ("redis_url", "redis+sentinel://a,b", "has no service"),
        ("redis_url", "redis+sentinel://a,b/main/x", "is no number of a database"),
        ("redis_url", "redis+sentinel://a,b/main/1/2", "is no number of a database"),
        ("redis_url", "unix://relative/redis.sock", "write unix:///path"),
        ("redis_url", "unix:///", "write unix:///path"),
        ("amqp_url", "amqp://h/?hartbeat=5", "did you mean 'heartbeat'?"),
        ("amqp_url", "amqp://h/?heartbeat=often", "a parameter heartbeat that is not a whole"),
        ("amqp_url", "amqp://h/?connection_attempts=3", "known: name, heartbeat"),
        ("amqp_url", "amqp://one/,amqp://two/?timeout=3", "unknown parameter 'timeout'"),
        ("amqp_url", "amqp:///vhost", "has no host"),
        ("amqp_url", "amqp://h/" + "v" * 256, "a vhost of more than 255 bytes"),
        ("amqp_url", "memory://?x=1", "(known: none)"),
        ("amqp_url", "memory://h", "is all that there is to write"),
        ("engine_url", "http://a,b/", "is not an http:// or https:// URL"),
        ("engine_url", "http://a..b/", "no host"),
    ],
)
def test_a_url_that_cannot_work_is_refused(name: str, url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"^NODE_TIMEOUT_{name.upper()}: ") as error:
        Settings(**{name: url})
    assert says in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        (
            "postgresql://h/x?application_name=a%20b&connect_timeout=2&keepalives=1&command_timeout=1.5",
            {
                "application_name": "a b",
                "connect_timeout": 2.0,
                "keepalives": True,
                "command_timeout": 1.5,
            },
        ),
        ("mysql://h/x?connect_timeout=3", {"connect_timeout": 3.0}),
        ("sqlite:////a/b%20c.db?timeout=1", {"timeout": 1.0}),
    ],
)
def test_parameters_of_databases_have_their_types(url: str, parameters: dict[str, Any]) -> None:
    assert read_database_url(url).parameters == parameters
    assert Settings(database_url=url).database_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("url", "database", "path", "service"),
    [
        ("redis://h", 0, "", ""),
        ("redis://h/", 0, "", ""),
        ("rediss://h/15", 15, "", ""),
        ("redis://h?db=3", 3, "", ""),
        ("unix:///run/redis.sock?db=4", 4, "/run/redis.sock", ""),
        ("unix://u:p@/run/redis%20a.sock", 0, "/run/redis a.sock", ""),
        ("redis+sentinel://a,b/main", 0, "", "main"),
        ("redis+sentinel://a,b/main/2", 2, "", "main"),
        ("redis+sentinel://a,b/main?db=2", 2, "", "main"),
        ("redis+cluster://a,b/", 0, "", ""),
    ],
)
def test_where_a_redis_url_leads(url: str, database: int, path: str, service: str) -> None:
    read = read_redis_url(url)
    assert (read.database, read.path, read.service) == (database, path, service)
    assert "db" not in read.parameters


def test_a_path_of_sqlite_is_decoded() -> None:
    assert read_database_url("sqlite:////a/b%20c@d.db").name == "/a/b c@d.db"
