"""Whether the ledger lies in a database of the Django project."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from node_timeout.contrib.bamboo.own_database import alias_of


@dataclass
class Connection:
    """What is read of one of Django's."""

    alias: str
    vendor: str
    settings_dict: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.settings_dict
        self.settings_dict = {"HOST": "", "PORT": "", "NAME": "project"} | given


POSTGRES = Connection("pg", "postgresql", {"HOST": "db.example", "PORT": "5433"})
MYSQL = Connection("my", "mysql", {"HOST": "127.0.0.1", "PORT": 3306})
SQLITE = Connection("lite", "sqlite", {"NAME": "/data/project.db"})
OTHER = Connection("other", "oracle")
SEVERAL = Connection("several", "postgresql", {"HOST": "h1,h2", "PORT": "5432,5433"})
ALL = [OTHER, SEVERAL, POSTGRES, MYSQL, SQLITE]


@pytest.mark.parametrize(
    ("url", "alias"),
    [
        ("postgresql://u:p@db.example:5433/project", "pg"),
        ("postgresql+asyncpg://u@db.example:5433/project", "pg"),
        ("postgresql://u:p@db.example/project", None),
        ("postgresql://u:p@db.example:5433/another", None),
        ("postgresql://u:p@replica.example:5433/project", None),
        ("postgresql://u:p@db.example:5433,db.example:5433/project", None),
        ("mysql://u:p@127.0.0.1/project", "my"),
        ("mariadb://u:p@localhost:3306/project", "my"),
        ("mysql://u:p@localhost:3307/project", None),
        ("postgresql://u:p@127.0.0.1:3306/project", None),
        ("sqlite:////data/project.db", "lite"),
        ("sqlite:///project.db", None),
    ],
)
def test_the_place_decides(url: str, alias: str | None) -> None:
    assert alias_of(url, ALL) == alias
