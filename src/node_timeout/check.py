"""``node-timeout check``: would the services work with these settings? One finding per line."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from node_timeout.app import NodeTimeout
from node_timeout.domain.errors import NodeTimeoutError, SettingsError
from node_timeout.engines.registry import load_engine
from node_timeout.ports.engine import CheckableEngine
from node_timeout.settings import Settings
from node_timeout.status import missing_roles, needed_roles, overdue_problem
from node_timeout.strategies.base import load_strategies
from node_timeout.urls.addresses import split_urls


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One finding."""

    name: str
    passed: bool
    text: str


async def run_checks(settings: Settings, *, running: bool = False) -> list[CheckResult]:
    """Run all checks; when one fails, the others still run.

    ``running`` also checks whether a scanner and a worker are alive.
    """
    async with NodeTimeout(settings) as app:
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "database": lambda: _database(app, settings),
            "redis": lambda: _redis(app, settings),
            "rabbitmq": lambda: _rabbitmq(app, settings),
            "settings": lambda: _settings(app),
            "overdue nodes": lambda: _overdue(app, settings),
            "engine and strategies": lambda: _plugins(settings),
        }
        if running:
            checks["processes"] = lambda: _processes(app, settings)
        results = []
        for name, look in checks.items():
            try:
                results.append(CheckResult(name=name, passed=True, text=await look()))
            except NodeTimeoutError as error:
                results.append(CheckResult(name=name, passed=False, text=str(error)))
        return results


async def _database(app: NodeTimeout, settings: Settings) -> str:
    url = settings.database_url.get_secret_value()
    reachable = _reachable(tls=settings.database_tls and not url.startswith("sqlite"))
    revision = await app.ledger.check_schema()
    await app.ledger.probe()
    return f"{reachable}, schema at head ({revision}), rows can be written"


async def _redis(app: NodeTimeout, settings: Settings) -> str:
    reachable = _reachable(tls=settings.redis_url.get_secret_value().startswith("rediss"))
    await app.pool.ping()
    await app.pool.probe()
    usable = f"{reachable}, the pool can be used"
    policy = await app.pool.eviction_policy()
    if policy == "unknown":
        return f"{usable}; make sure that its maxmemory-policy is noeviction, it does not tell"
    if policy != "noeviction":
        raise SettingsError(
            f"maxmemory-policy is {policy}: it may drop deadlines; set it to noeviction"
        )
    return f"{usable}, maxmemory-policy noeviction"


async def _rabbitmq(app: NodeTimeout, settings: Settings) -> str:
    urls = split_urls(settings.amqp_url.get_secret_value())
    reachable = _reachable(tls=all(url.startswith("amqps:") for url in urls))
    await app.exchange.ensure()
    await app.exchange.probe()
    queues = await app.exchange.depths()
    return f"{reachable}, queues as declared and usable: {', '.join(queues) or 'in this process'}"


async def _settings(app: NodeTimeout) -> str:
    with _told_above():
        problems = await app.wiring.agreement.problems()
    if problems:
        raise SettingsError("; ".join(problems))
    return "as those of the scanners, if any has started"


async def _overdue(app: NodeTimeout, settings: Settings) -> str:
    with _told_above():
        pool = await app.pool.counts()
        ledger = await app.ledger.counts(await app.pool.now())
    problem = overdue_problem(
        settings.overdue_alarm, pool.oldest_overdue_seconds, ledger.oldest_overdue_seconds
    )
    if problem:
        raise NodeTimeoutError(problem)
    return f"none for longer than {settings.overdue_alarm:g} s"


async def _processes(app: NodeTimeout, settings: Settings) -> str:
    alive = await app.processes()
    if problems := missing_roles(alive, needed_roles(settings.events_queue)):
        raise NodeTimeoutError("; ".join(problems))
    return f"{len(alive)} alive, each role among them"


@contextlib.contextmanager
def _told_above() -> Iterator[None]:
    """For checks that need a store: another line already says why that store cannot be used."""
    try:
        yield
    except NodeTimeoutError as error:
        raise NodeTimeoutError("unknown while Redis or the database cannot be used") from error


def _reachable(*, tls: bool) -> str:
    return "reachable over TLS" if tls else "reachable"


async def _plugins(settings: Settings) -> str:
    engine = load_engine(settings)
    try:
        strategies = load_strategies(settings.handlers, engine, settings)
        for strategy in strategies.values():
            await strategy.close()
        seen = f" ({await engine.check()})" if isinstance(engine, CheckableEngine) else ""
    finally:
        await engine.close()
    return f"engine {settings.engine}{seen}, strategies {', '.join(sorted(strategies))}"
