"""MySQL and MariaDB over TLS, or not at all.

aiomysql goes on in the clear if the server does not offer TLS, and whoever sits in between can see
to that; so it is stopped before it logs in.
"""

from typing import Any

from aiomysql import Connection, OperationalError
from pymysql.constants import CLIENT, CR


class _TlsConnection(Connection):  # type: ignore[misc] # it has no types
    async def _request_authentication(self) -> None:
        if not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server does not offer TLS")
        await super()._request_authentication()


async def connect(**options: Any) -> Any:
    """An open connection; ``options`` are aiomysql's, with an ``ssl`` context among them."""
    connection = _TlsConnection(**options)
    await connection._connect()  # noqa: SLF001 - as aiomysql.connect does
    return connection
