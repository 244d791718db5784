"""PostgreSQL on several hosts: each new connection goes to the one that takes writes.

Both forms of libpq are read, and a host without a port has 5432:

    postgresql://user:password@one:5432,two:5432/name
    postgresql://user:password@/name?host=one:5432&host=two:5432
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy.engine import URL, make_url

from node_timeout.adapters.turns import Turns
from node_timeout.addresses import Host, HostsUrl


def parse_url(url: str) -> URL:
    """SQLAlchemy's `make_url`, which puts a list of hosts into the query."""
    try:
        parts = HostsUrl.parse(url)
    except ValueError:
        return make_url(url)  # which says what is wrong, or knows better
    if len(parts.hosts) == 1 or not parts.scheme.startswith("postgres"):
        return make_url(url)
    one = make_url(f"{parts.scheme}://{parts.login}{parts.rest}")
    return one.update_query_dict({"host": [str(host) for host in parts.hosts]})


def take_hosts(url: URL) -> tuple[URL, Sequence[Host]]:
    """Return the URL without the hosts in its query, and these; none if there is at most one.

    Raises ValueError.
    """
    names, ports = _listed(url, "host"), _listed(url, "port")
    if len(names) < 2:  # noqa: PLR2004 - several
        return url, ()
    hosts = [Host.parse(name) for name in names]
    if not all(host.name for host in hosts):
        raise ValueError("empty host")
    if len(ports) < len(hosts):
        (port,) = ports or ["5432"]  # for all of them
        ports = [port] * len(hosts)
    return url.difference_update_query(("host", "port")), [
        Host(name=host.name, port=host.port or int(port))
        for host, port in zip(hosts, ports, strict=True)
    ]


def _listed(url: URL, name: str) -> list[str]:
    value = url.query.get(name, ())
    return value.split(",") if isinstance(value, str) else list(value)


def connector(hosts: Sequence[Host], time_limit: float) -> Callable[..., Awaitable[Any]]:
    """Return what connects as `asyncpg.connect` does, but to the first host that takes writes.

    asyncpg itself spends the whole time limit on a host that is silent. Raises ConnectionError.
    """
    turns = Turns(hosts)

    async def connect(**options: Any) -> Any:
        import asyncpg  # noqa: PLC0415 - only there if installed

        options.setdefault("target_session_attrs", "read-write")

        async def dial(host: Host) -> Any:
            try:
                return await asyncpg.connect(**{**options, "host": host.name, "port": host.port})
            except asyncpg.TargetServerAttributeNotMatched as error:
                wanted = options["target_session_attrs"]
                raise ConnectionError(f"is not {wanted} now") from error

        failures = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
        _, connection = await turns.connect(dial, time_limit, failures)
        return connection

    return connect
