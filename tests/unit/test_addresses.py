"""URLs of a service that several servers offer."""

import pytest

from node_timeout.domain.errors import SettingsError
from node_timeout.settings import Settings
from node_timeout.urls.addresses import Host, HostsUrl, split_urls


def test_one_url_may_have_several_hosts() -> None:
    url = HostsUrl.parse("postgresql://me:p,w@one:5432, [::1]:5433,three/name?a=b,c")
    assert url.scheme == "postgresql"
    assert (url.login, url.user, url.password) == ("me:p,w", "me", "p,w")
    assert url.hosts == (
        Host(name="one", port=5432),
        Host(name="::1", port=5433),
        Host(name="three", port=None),
    )
    assert [str(host) for host in url.hosts] == ["one:5432", "[::1]:5433", "three"]
    assert (url.path, url.query) == ("/name", "a=b,c")


@pytest.mark.parametrize("url", ["sqlite:////a/file.db", "unix:///a/socket?db=1", "memory://"])
def test_a_url_without_a_host_is_one(url: str) -> None:
    assert HostsUrl.parse(url).hosts == (Host(name="", port=None),)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("hunter2", "is not a URL"),
        ("redis:/hunter2", "is not a URL"),
        ("redis://hunter2@h:port", "a port that is no number"),
        ("redis://hunter2@h:99999", "a port that is no number"),
        ("redis://hunter2@h:0", "a port that is no number"),
        ("redis://hunter2@a..b", "or no host"),
        ("redis://hunter2@a b", "or no host"),
        ("redis://hunter2@h#x", "write it as %23"),
        ("redis://hunter2@[::1", "no host"),
        ("redis://hunter2@a,,b", "an empty host"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_quoting_it(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        HostsUrl.parse(url)
    assert "hunter2" not in str(error.value)


def test_commas_separate_urls_only_before_the_next_one() -> None:
    assert split_urls(" amqp://a:p,w@one/x , amqps://two ") == ["amqp://a:p,w@one/x", "amqps://two"]
    assert split_urls("amqp://one,two") == ["amqp://one,two"]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("amqp_url", "amqp://u:p@a:5672/v,amqps://u:p@b"),
        ("database_url", "postgresql://u:p@a:5432,b:5432/name"),
        ("database_url", "postgres://u:p@[::1],b/name"),
        ("redis_url", "redis+cluster://:p@a:7000,b:7001"),
        ("redis_url", "rediss+sentinel://a:26379,b:26379/mymaster/0"),
    ],
)
def test_settings_take_several_servers(name: str, url: str) -> None:
    assert getattr(Settings(**{name: url}), name).get_secret_value() == url


@pytest.mark.parametrize(
    ("name", "url", "says"),
    [
        ("amqp_url", "amqp://u:s3cret@a,b", "write whole URLs separated by commas"),
        ("amqp_url", "amqp://u:s3cret@a,redis://b", "has the scheme 'redis'"),
        ("amqp_url", "amqp://u:s3cret@a,memory://", "memory:// beside another"),
        ("amqp_url", "amqp://a,amqp://u:s3cret@b:x", "a port that is no number"),
        ("database_url", "mysql://u:s3cret@a,b/name", "mysql:// takes one"),
        ("redis_url", "redis://:s3cret@a,b", "redis:// takes one"),
    ],
)
def test_settings_refuse_several_servers_where_there_can_be_one(
    name: str, url: str, says: str
) -> None:
    with pytest.raises(SettingsError, match=f"NODE_TIMEOUT_{name.upper()}") as error:
        Settings(**{name: url})
    assert says in str(error.value)
    assert "s3cret" not in str(error.value)
