"""Connections to MySQL and MariaDB: TLS is enforced, and connecting has a time limit.

aiomysql continues without TLS if the server does not offer it, which a man in the middle can
arrange; so it is stopped before it logs in.
"""

import asyncio
from typing import Any

from aiomysql import Connection, OperationalError
from pymysql.constants import CLIENT, CR


class _Connection(Connection):  # type: ignore[misc] # it has no types
    def escape(self, obj: Any) -> str:
        """With PyMySQL 1.2, aiomysql cannot write bytes."""
        if isinstance(obj, bytes):
            return f"_binary X'{obj.hex()}'"
        return str(super().escape(obj))


class _TlsConnection(_Connection):
    async def _request_authentication(self) -> None:
        if not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server does not offer TLS")
        await super()._request_authentication()


async def connect(*, connect_timeout: float, **options: Any) -> Any:
    """Open a connection; ``options`` are aiomysql's. With an ``ssl`` context it uses TLS.

    The time limit includes the login, not only the opening of the socket. Raises an
    OperationalError that says why.
    """
    connection = (_TlsConnection if options.get("ssl") else _Connection)(**options)
    try:
        async with asyncio.timeout(connect_timeout):
            await connection._connect()  # noqa: SLF001 - as aiomysql.connect does
    except TimeoutError as error:
        connection.close()
        reason = f"no answer within {connect_timeout:g} s"
        raise OperationalError(CR.CR_CONN_HOST_ERROR, f"{_where(options)}: {reason}") from error
    except OperationalError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        text = f"{_where(options)}: {error.__cause__}"
        raise OperationalError(CR.CR_CONN_HOST_ERROR, text) from error.__cause__
    return connection


def _where(options: dict[str, Any]) -> str:
    return str(options.get("unix_socket") or options.get("host", "localhost"))
