"""Engine adapters, one module each, found through the entry-point group ``node_timeout.engines``.

An entry point is a callable that takes the `Settings` and returns a `node_timeout.ports.Engine`.
"""

from importlib.metadata import entry_points

from node_timeout.domain.errors import SettingsError
from node_timeout.domain.hints import did_you_mean
from node_timeout.ports.engine import Engine
from node_timeout.setting_rules import variable
from node_timeout.settings import Settings

ENGINES_GROUP = "node_timeout.engines"


def installed_engines() -> list[str]:
    return sorted({point.name for point in entry_points(group=ENGINES_GROUP)})


def load_engine(settings: Settings) -> Engine:
    """Build the engine that the settings name. Raises `SettingsError`, listing those installed."""
    installed = ", ".join(installed_engines())
    name = settings.engine
    if name is None:
        raise SettingsError(f"{variable('engine')} is not set; engines installed: {installed}")
    points = [point for point in entry_points(group=ENGINES_GROUP) if point.name == name]
    if not points:
        hint = did_you_mean(name, installed_engines())
        raise SettingsError(
            f"{variable('engine')}: no engine {name!r} is installed{hint} (installed: {installed})"
        )
    if len({point.value for point in points}) > 1:
        where = " and ".join(point.value for point in points)
        raise SettingsError(f"engine {name!r} is claimed twice: by {where}; uninstall one")
    try:
        engine: Engine = points[0].load()(settings)
    except Exception as error:
        raise SettingsError(f"engine {name!r} ({points[0].value}): {error}") from error
    return engine
