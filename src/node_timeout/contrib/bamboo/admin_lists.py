"""The lists of runs and configs in the admin: they follow the ledger's indexes, and are bounded."""

from __future__ import annotations

import time
from typing import Any

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from node_timeout.contrib.bamboo.models import STATES
from node_timeout.domain.run import RunState

COUNTED = 10_000
"""Rows beyond this number are not counted; a filter finds them."""
ALL = "all"
NEWEST = ("-finished_at", "-run_id")
ORDERS: dict[str, tuple[str, ...]] = {
    RunState.ARMED: ("next_at", "run_id"),
    RunState.PAUSED: ("run_id",),
    RunState.EXECUTING: ("run_id",),
    RunState.HANDLED: NEWEST,
    RunState.STALE: NEWEST,
    RunState.CANCELLED: NEWEST,
    RunState.DEAD: NEWEST,
}
"""The orders of the indexes: the earliest due first, the last ended first."""


def chosen_state(request: Any) -> str:
    """The chosen state; by default armed, and any state in a search."""
    asked = request.GET.get(StateFilter.parameter_name)
    return asked or (ALL if request.GET.get("q") else RunState.ARMED)


class BoundedPaginator(Paginator):
    @cached_property
    def count(self) -> int:
        rows = self.object_list.order_by()
        return int(rows[:COUNTED].count())


class IndexedList(ChangeList):
    def get_ordering(self, request: Any, queryset: Any) -> list[str]:
        """The fixed order, whatever the URL asks for."""
        del queryset
        return list(self.model_admin.get_ordering(request))


class StateFilter(SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, *_request_and_page: Any) -> list[tuple[str, Any]]:
        return [*STATES.items(), (ALL, _("All"))]

    def choices(self, changelist: Any) -> Any:
        for value, title in self.lookup_choices:
            yield {
                "selected": value == self._chosen,
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": title,
            }

    def queryset(self, request: Any, rows: Any) -> Any:
        self._chosen = chosen_state(request)
        return rows if self._chosen == ALL else rows.filter(state=self._chosen)


class DueFilter(SimpleListFilter):
    title = _("due")
    parameter_name = "due_within"

    def lookups(self, *_request_and_page: Any) -> list[tuple[str, Any]]:
        return [("0", _("overdue")), ("3600", _("within an hour")), ("86400", _("within a day"))]

    def queryset(self, _request: Any, rows: Any) -> Any:
        if self.value() not in ("0", "3600", "86400"):
            return rows
        until = time.time() + float(self.value())
        return rows.filter(state=RunState.ARMED, next_at__lte=until)
