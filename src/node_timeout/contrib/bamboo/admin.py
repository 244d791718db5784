"""Admin pages: timeout configs, and node runs with their history; runs can be changed there.

No page counts or sorts a large table: lists follow the indexes of the ledger, and a search needs a
whole id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME, ActionForm
from django.contrib.admin.views.main import ChangeList
from django.db.models.functions import Substr
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as said
from django.utils.translation import gettext_lazy as _

from node_timeout.contrib.bamboo import client
from node_timeout.contrib.bamboo.admin_lists import (
    ORDERS,
    BoundedPaginator,
    DueFilter,
    IndexedList,
    StateFilter,
    chosen_state,
)
from node_timeout.contrib.bamboo.models import (
    TimeoutNodeConfig,
    TimeoutNodeHistory,
    TimeoutNodeRun,
    ledger_alias,
)
from node_timeout.domain.changes import OPEN
from node_timeout.domain.durations import parse_move
from node_timeout.domain.errors import NodeTimeoutError
from node_timeout.domain.ids import MAX_ID_LENGTH
from node_timeout.domain.instants import lateness, utc
from node_timeout.domain.run import RunState

PER_PAGE = 100
SHOWN_OF_PAYLOAD = 80
MAX_CHANGED = 1_000
"""The most runs that one action changes."""
PER_TRANSACTION = 200
HISTORY_LINES = 200
CHANGEABLE = {
    "extend": OPEN,
    "fire": OPEN,
    "cancel": OPEN,
    "pause": (RunState.ARMED,),
    "resume": (RunState.PAUSED,),
    "replay": (RunState.DEAD,),
    "discard": (RunState.DEAD,),
}


def instant(seconds: float | None) -> datetime | None:
    """Convert Unix seconds to the project's way to show times."""
    found = None if seconds is None else utc(seconds)
    if found is None or settings.USE_TZ:
        return found
    return timezone.make_naive(found)


class _Page(admin.ModelAdmin):
    list_per_page = PER_PAGE
    list_max_show_all = PER_PAGE
    show_full_result_count = False
    paginator = BoundedPaginator
    search_fields = ("node_id__exact", "root_pipeline_id__exact")
    sortable_by = ()

    def get_changelist(self, *_: Any, **__: Any) -> type[ChangeList]:
        return IndexedList

    def lookup_allowed(self, lookup: str, *_: Any) -> bool:
        """Allow only the filters, not any column that the URL names."""
        return lookup in (StateFilter.parameter_name, DueFilter.parameter_name)

    def has_module_permission(self, request: Any) -> bool:
        return ledger_alias() is not None and bool(super().has_module_permission(request))

    def has_view_permission(self, request: Any, obj: Any = None) -> bool:
        return ledger_alias() is not None and bool(super().has_view_permission(request, obj))

    def has_add_permission(self, _request: Any) -> bool:
        return False

    def has_change_permission(self, _request: Any, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: Any, _obj: Any = None) -> bool:
        return False


@admin.register(TimeoutNodeConfig)
class TimeoutNodeConfigAdmin(_Page):
    list_display = (
        "root_pipeline_id",
        "node_id",
        "action",
        "timeout",
        "payload_begins",
        "kept_until",
    )
    list_display_links = None
    ordering = ("root_pipeline_id", "node_id")

    def get_queryset(self, request: Any) -> Any:
        begins = Substr("payload_json", 1, SHOWN_OF_PAYLOAD)
        return super().get_queryset(request).defer("payload_json").annotate(begins=begins)

    def get_object(self, *_: Any, **__: Any) -> None:
        """No config has a page: several may share the node id, which Django takes for the key."""
        return

    @admin.display(description=_("payload"))
    def payload_begins(self, config: Any) -> str | None:
        return config.begins

    @admin.display(description=_("kept until"))
    def kept_until(self, config: TimeoutNodeConfig) -> datetime | None:
        return instant(config.expires_at)


class ChangeForm(ActionForm):
    """The fields beside the choice of an action."""

    by = forms.CharField(label=_("Time:"), required=False, max_length=40, initial="PT10M")
    reason = forms.CharField(label=_("Reason:"), required=False, max_length=MAX_ID_LENGTH)


@admin.register(TimeoutNodeRun)
class TimeoutNodeRunAdmin(_Page):
    list_display = (
        *("node_id", "state", "root_pipeline_id", "version", "action", "timeout"),
        *("due_at", "late_by", "attempts", "message"),
    )
    list_filter = (StateFilter, DueFilter)
    action_form = ChangeForm
    actions: ClassVar[list[str]] = [
        *("extend_runs", "pause_runs", "resume_runs", "fire_runs", "cancel_runs"),
        *("replay_runs", "discard_runs"),
    ]
    fields = (
        *("run_id", "root_pipeline_id", "node_id", "version", "state", "action", "timeout"),
        *("payload_json", "began_at", "deadline_at", "extended", "next_try_at", "paused_since"),
        *("stopped_by", "closed_at", "late_by"),
        *("attempts", "revision", "message", "history"),
    )
    readonly_fields = fields

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).defer("payload_json")

    def get_ordering(self, request: Any) -> tuple[str, ...]:
        return ORDERS.get(chosen_state(request), ("run_id",))

    def has_steer_permission(self, request: Any) -> bool:
        return self._may(request, "change")

    def has_discard_permission(self, request: Any) -> bool:
        return self._may(request, "delete")

    def _may(self, request: Any, what: str) -> bool:
        name = f"{self.opts.app_label}.{what}_{self.opts.model_name}"
        return ledger_alias() is not None and bool(request.user.has_perm(name))

    # What a run shows

    @admin.display(description=_("deadline"))
    def due_at(self, run: TimeoutNodeRun) -> datetime | None:
        """When an armed run needs attention: at its deadline, or at its next attempt."""
        return instant(run.deadline if run.next_at is None else run.next_at)

    @admin.display(description=_("late by (s)"))
    def late_by(self, run: TimeoutNodeRun) -> str | None:
        late = lateness(run, time.time())
        return None if late is None else f"{late:.3f}"

    @admin.display(description=_("started"))
    def began_at(self, run: TimeoutNodeRun) -> datetime | None:
        return instant(run.started_at)

    @admin.display(description=_("deadline"))
    def deadline_at(self, run: TimeoutNodeRun) -> datetime | None:
        return instant(run.deadline)

    @admin.display(description=_("next try"))
    def next_try_at(self, run: TimeoutNodeRun) -> datetime | None:
        return instant(run.next_at)

    @admin.display(description=_("paused"))
    def paused_since(self, run: TimeoutNodeRun) -> datetime | None:
        return instant(run.paused_at)

    @admin.display(description=_("closed"))
    def closed_at(self, run: TimeoutNodeRun) -> datetime | None:
        return instant(run.finished_at)

    @admin.display(description=_("history"))
    def history(self, run: TimeoutNodeRun) -> str:
        """The history, the newest entry last."""
        found = TimeoutNodeHistory.objects.filter(run_id=run.run_id).order_by("-id")
        entries = list(found[: HISTORY_LINES + 1])
        lines = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (
                (
                    _shown(instant(entry.at)),
                    entry.get_kind_display(),
                    entry.attempt or "",
                    entry.actor or "",
                    entry.detail or "",
                )
                for entry in reversed(entries[:HISTORY_LINES])
            ),
        )
        if not lines:
            return said("nothing out of the plain")
        more = said("Older lines are left out.") if len(entries) > HISTORY_LINES else ""
        return format_html("{}<table>{}</table>", more, lines)

    # What can be done with runs

    @admin.action(description=_("Cancel the deadlines of the selected runs"), permissions=["steer"])
    def cancel_runs(self, request: Any, rows: Any) -> None:
        self._change(request, rows, "cancel", said("Deadlines cancelled: %d"))

    @admin.action(description=_("Extend the selected runs by a time"), permissions=["steer"])
    def extend_runs(self, request: Any, rows: Any) -> None:
        try:
            by = parse_move(request.POST.get("by", "").strip())
        except NodeTimeoutError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            self._change(request, rows, "extend", said("Deadlines moved: %d"), by=by)

    @admin.action(description=_("Fire the selected runs now"), permissions=["steer"])
    def fire_runs(self, request: Any, rows: Any) -> None:
        self._change(request, rows, "fire", said("Runs due now: %d"))

    @admin.action(description=_("Pause the selected runs"), permissions=["steer"])
    def pause_runs(self, request: Any, rows: Any) -> None:
        self._change(request, rows, "pause", said("Runs paused: %d"))

    @admin.action(description=_("Resume the selected paused runs"), permissions=["steer"])
    def resume_runs(self, request: Any, rows: Any) -> None:
        self._change(request, rows, "resume", said("Runs resumed: %d"))

    @admin.action(description=_("Replay the selected dead runs"), permissions=["steer"])
    def replay_runs(self, request: Any, rows: Any) -> None:
        self._change(request, rows, "replay", said("Runs armed again: %d"))

    @admin.action(description=_("Delete the selected dead runs"), permissions=["discard"])
    def discard_runs(self, request: Any, rows: Any) -> None:
        self._change(request, rows, "discard", said("Runs deleted: %d"))

    def _change(self, request: Any, rows: Any, what: str, done: str, **more: Any) -> None:
        states = CHANGEABLE[what]
        order = ("finished_at",) if states == (RunState.DEAD,) else ("state", "next_at", "run_id")
        able = rows.filter(state__in=states).order_by(*order).values_list("run_id", flat=True)
        found = list(able[: MAX_CHANGED + 1])
        chosen = sorted(found[:MAX_CHANGED])  # the order in which all code locks rows
        ours: Any = client()
        actor = f"admin {request.user.get_username()}"[:MAX_ID_LENGTH]
        reason = request.POST.get("reason", "").strip()[:MAX_ID_LENGTH] or None
        changed = tried = 0
        try:
            for i in range(0, len(chosen), PER_TRANSACTION):
                part = chosen[i : i + PER_TRANSACTION]
                changed += getattr(ours.changes, what)(part, actor=actor, reason=reason, **more)
                tried += len(part)
        except NodeTimeoutError as error:
            self.message_user(request, str(error), messages.ERROR)
        self.message_user(
            request, done % changed, messages.SUCCESS if changed else messages.WARNING
        )
        for text in _left(request, found, tried=tried, changed=changed):
            self.message_user(request, text, messages.WARNING)


def _left(request: Any, found: Sequence[str], *, tried: int, changed: int) -> Iterator[str]:
    """What was asked for but not done; ``found`` are the runs that could be changed."""
    wanted = min(len(found), MAX_CHANGED)
    is_explicit = request.POST.get("select_across") != "1"
    selected = len(set(request.POST.getlist(ACTION_CHECKBOX_NAME))) if is_explicit else wanted
    if tried < wanted:
        yield said("Not tried: %d") % (wanted - tried)
    elif changed < selected:
        yield said("Not in a state for that, or too long then: %d") % (selected - changed)
    if len(found) > MAX_CHANGED:
        yield said("Only the first %d were looked at; do it again for the rest.") % MAX_CHANGED


def _shown(value: datetime | None) -> str:
    if value is None:
        return ""
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return local.isoformat(sep=" ", timespec="milliseconds")
