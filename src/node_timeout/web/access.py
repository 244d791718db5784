"""Who calls, and what they may do.

    Authorization: Bearer nt_…        a token
    cookie of the console             the token given at login
    header of a trusted proxy         the user whom the proxy has authenticated
    nothing, from this very host      may do all, until a token exists or a proxy is configured

A browser also sends its cookie, and a proxy its header, for requests made by pages of other sites:
so a request that changes something must then come from one of our pages.
"""

import ipaddress
import logging
from dataclasses import dataclass
from enum import StrEnum

from starlette.requests import Request

from node_timeout.domain.tokens import Role, Token, hash_of, is_token
from node_timeout.ports.pool import Pool
from node_timeout.ports.tokens import Tokens
from node_timeout.settings import Settings
from node_timeout.web.limits import RateLimit
from node_timeout.web.problems import Problem
from node_timeout.web.sessions import COOKIE, Sessions

logger = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
KEPT_SECONDS = 5.0
"""How long a revoked token may still be accepted."""
MAX_KEPT = 1000
MAX_ACTOR_LENGTH = 100
LOGINS_A_SECOND, LOGINS_AT_ONCE = 1.0, 10.0
WRONG_A_SECOND, WRONG_AT_ONCE = 1.0, 20.0
"""Limits for unknown tokens from one address: each costs a look-up in the database."""
BEARER = "bearer "
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="node-timeout"'}
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
FORWARDED, FORWARDED_PREFIX = ("forwarded", "x-real-ip", "via"), "x-forwarded-"
"""Headers that a proxy on this host adds to requests of others."""
LOCAL_HTTP = "1.1"
"""A proxy with default settings often uses HTTP/1.0; no current client does."""


class Way(StrEnum):
    """How a caller was identified."""

    TOKEN = "token"  # noqa: S105 - a word
    SESSION = "session"
    PROXY = "proxy"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls."""

    name: str
    """For the history."""
    role: Role
    way: Way


class Access:
    """Decides who makes a request, and whether they may."""

    def __init__(
        self, settings: Settings, tokens: Tokens, pool: Pool, *, is_open_here: bool
    ) -> None:
        """``is_open_here``: until a token exists or a proxy is configured, callers on this host may
        do everything. After the last token is revoked, access stays closed.
        """
        self._settings = settings
        self._tokens = tokens
        self._pool = pool
        self._is_open_here = is_open_here and not settings.web_trusted_proxies
        self._proxies = [ipaddress.ip_network(each) for each in settings.web_trusted_proxies]
        self._kept: dict[str, tuple[float, Token | None]] = {}
        """Stored tokens by their hash, with the end of their caching; never unknown tokens."""
        self._any_token: tuple[float, bool] = (0.0, False)
        self._limit = RateLimit(settings.web_rate)
        self._logins = RateLimit(LOGINS_A_SECOND, LOGINS_AT_ONCE)
        self._wrong = RateLimit(WRONG_A_SECOND, WRONG_AT_ONCE)
        secret = settings.web_secret
        self.sessions = Sessions(None if secret is None else secret.get_secret_value())

    async def require(self, request: Request, role: Role) -> Caller:
        """Return the caller. Raises `Problem` unless the caller is known and may do this."""
        self.require_ours_to_change(request)
        caller = await self.caller(request)
        if caller is None:
            raise Problem(401, "who calls is not known: send a token", headers=CHALLENGE)
        is_change = request.method not in SAFE_METHODS
        if is_change and caller.way is not Way.TOKEN:
            require_same_origin(request, is_local=caller.way is Way.LOCAL)
        if not caller.role.may(role):
            raise Problem(403, f"{caller.role} may not do this: it needs {role}")
        if wait := self._limit.seconds_until_free(f"{caller.way} {caller.name}"):
            raise _too_many("requests", wait)
        return caller

    def require_ours_to_change(self, request: Request) -> None:
        """Raises `Problem` for a change if this server is read-only."""
        if self._settings.web_read_only and request.method not in SAFE_METHODS:
            raise Problem(403, "nothing can be changed here (web_read_only)")

    async def caller(self, request: Request) -> Caller | None:
        """The caller; None if unknown. Raises `Problem` for a wrong token, for too many of them,
        and for two names from a trusted proxy.
        """
        authorization = request.headers.get("authorization", "")
        if authorization.lower().startswith(BEARER):
            return await self._by_token(authorization[len(BEARER) :].strip(), request)
        if cookie := request.cookies.get(COOKIE):
            token_hash = self.sessions.token_hash(cookie, await self._pool.now())
            token = None if token_hash is None else await self._valid(token_hash)
            if token is not None:
                return Caller(name=token.name, role=token.role, way=Way.SESSION)
        if name := self._name_by_proxy(request):
            plain = "".join(each for each in name if each.isprintable())[:MAX_ACTOR_LENGTH].strip()
            return Caller(name=plain or "proxy", role=self._settings.web_proxy_role, way=Way.PROXY)
        if self._is_open_here and is_local(request) and not await self._has_tokens():
            return Caller(name="local user", role=Role.ADMIN, way=Way.LOCAL)
        return None

    async def login(self, text: str) -> Token | None:
        """The valid token with this text."""
        return await self._valid(hash_of(text)) if is_token(text) else None

    async def now(self) -> float:
        return await self._pool.now()

    def has_tried_too_often(self, request: Request) -> bool:
        """Whether this address has tried to log in too often; each call counts as a try."""
        return self._logins.seconds_until_free(self._client_address(request)) > 0

    def is_over_tls(self, request: Request) -> bool:
        """Whether TLS is used, by this server itself or by a trusted proxy."""
        if request.url.scheme == "https":
            return True
        said = _last_entry(request, "x-forwarded-proto").lower()
        return said == "https" and self._is_from_proxy(request)

    async def _by_token(self, text: str, request: Request) -> Caller:
        token = await self._known_or_limited(text, request) if is_token(text) else None
        if token is None:
            raise Problem(401, "the token is unknown, revoked or expired", headers=CHALLENGE)
        return Caller(name=token.name, role=token.role, way=Way.TOKEN)

    async def _known_or_limited(self, text: str, request: Request) -> Token | None:
        """The valid token with this text. Raises `Problem` after too many unknown ones."""
        token_hash = hash_of(text)
        if token_hash in self._kept:
            return await self._valid(token_hash)
        address = self._client_address(request)
        if wait := self._wrong.seconds_until_free(address):
            raise _too_many("unknown tokens", wait)
        is_unknown = False
        try:
            token = await self._valid(token_hash)
            is_unknown = token_hash not in self._kept
        finally:
            if not is_unknown:  # also when the database does not answer
                self._wrong.give_back(address)
        return token

    async def _valid(self, token_hash: str) -> Token | None:
        now = await self._pool.now()
        until, token = self._kept.get(token_hash, (0.0, None))
        if until <= now:
            token = await self._tokens.token_of(token_hash)
            if token is None:
                self._kept.pop(token_hash, None)
                return None
            if token_hash not in self._kept and len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[token_hash] = (now + KEPT_SECONDS, token)
        return token if token is not None and token.is_valid(now) else None

    async def _has_tokens(self) -> bool:
        now = await self._pool.now()
        until, found = self._any_token
        if until <= now:
            found = await self._tokens.has_tokens()
            self._any_token = (now + KEPT_SECONDS, found)
        return found

    def _name_by_proxy(self, request: Request) -> str:
        """The name; empty without one. Raises `Problem` for two: one is not from the proxy."""
        if not self._is_from_proxy(request):
            return ""
        header = self._settings.web_proxy_header
        names = request.headers.getlist(header)
        if len(names) > 1:
            raise Problem(400, f"the header {header} is given {len(names)} times")
        return names[0].strip() if names else ""

    def _client_address(self, request: Request) -> str:
        """The client's address; behind a trusted proxy, the address that called the proxy."""
        if self._is_from_proxy(request):
            said = _parsed(_last_entry(request, "x-forwarded-for"))
            if said is not None:
                return str(said)
        return request.client.host if request.client else ""

    def _is_from_proxy(self, request: Request) -> bool:
        host = _address(request)
        return host is not None and any(host in network for network in self._proxies)


def require_same_origin(request: Request, *, is_local: bool) -> None:
    """Raises `Problem` unless one of our pages has sent the request.

    A browser on plain HTTP in a local network sends no ``Sec-Fetch-Site``, but an ``Origin``. A
    client that sends neither is not a browser: it is accepted only if ``is_local``.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        is_ours = site == "same-origin"
    elif (origin := request.headers.get("origin")) is not None:
        is_ours = origin.partition("://")[2] == request.headers.get("host")
    else:
        is_ours = is_local
    if not is_ours:
        raise Problem(403, "the request comes from a page of another site")


def is_local(request: Request) -> bool:
    """Whether the request is from this host, to a name no other site can have, by no proxy."""
    if request.scope["http_version"] != LOCAL_HTTP:
        return False
    if any(name in FORWARDED or name.startswith(FORWARDED_PREFIX) for name in request.headers):
        return False
    address = _address(request)
    name = request.headers.get("host", "").rpartition(":")
    host = name[0] if name[0] and name[2].isdigit() else request.headers.get("host", "")
    return address is not None and address.is_loopback and host.lower() in LOCAL_NAMES


def _too_many(what: str, wait: float) -> Problem:
    """``wait`` is in seconds."""
    return Problem(429, f"too many {what}", headers={"Retry-After": f"{max(1, round(wait))}"})


def _last_entry(request: Request, header: str) -> str:
    """The entry that the nearest proxy has added to a list; empty without one."""
    return ",".join(request.headers.getlist(header)).rpartition(",")[2].strip()


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(request: Request) -> Address | None:
    return None if request.client is None else _parsed(request.client.host)


def _parsed(text: str) -> Address | None:
    """None if it is no address. An IPv4 client of an IPv6 socket has its IPv4 address."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
