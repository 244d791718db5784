"""What Python 3.9 lacks, for the modules that also run there: see `packaging/bamboo`.

From Python 3.11 on, each name is the standard library's own.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

__all__ = ["Self", "StrEnum", "dataclass"]

if sys.version_info >= (3, 11):
    from dataclasses import dataclass
    from enum import StrEnum
    from typing import Self
else:
    from enum import Enum

    Self = Any

    class StrEnum(str, Enum):
        """Members equal their texts, and print as them."""

        __str__ = str.__str__
        __format__ = str.__format__

    def dataclass(cls=None, *, slots=False, kw_only=False, **how):  # noqa: ANN001, ANN003, ANN201
        """Accept ``slots`` and ``kw_only`` too; ``slots`` has no effect."""
        del slots
        if kw_only:
            how["init"] = False

        def made(cls):  # noqa: ANN001, ANN202
            new = dataclasses.dataclass(**how)(cls)
            if kw_only:
                new.__init__ = _by_keyword
            return new

        return made if cls is None else made(cls)

    def _by_keyword(self, **values):  # noqa: ANN001, ANN003, ANN202
        for each in dataclasses.fields(self):
            if each.name in values:
                value = values.pop(each.name)
            elif each.default is not dataclasses.MISSING:
                value = each.default
            elif each.default_factory is not dataclasses.MISSING:
                value = each.default_factory()
            else:
                raise TypeError(f"{type(self).__name__} lacks {each.name!r}")
            object.__setattr__(self, each.name, value)
        if values:
            raise TypeError(f"{type(self).__name__} has no {next(iter(values))!r}")
