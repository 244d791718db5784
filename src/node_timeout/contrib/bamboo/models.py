"""The tables of the ledger as Django models, for reading; `manage.py migrate` creates them.

Django's migrations do not manage them: scanners and workers use them too, also without Django, and
migrate them. Do not write to them either: the domain decides what may become of a run. Change runs
by `client()`, and configs by the methods of `objects`.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, ClassVar, NoReturn

from django.db import models
from django.db.models.signals import pre_save
from django.utils.translation import gettext_lazy as _

from node_timeout.domain import run_id
from node_timeout.domain.errors import NodeTimeoutError
from node_timeout.domain.history import HistoryKind
from node_timeout.domain.ids import MAX_ID_LENGTH, MAX_TRACE_LENGTH, MAX_VERSION_LENGTH
from node_timeout.domain.orders import MAX_KEY_LENGTH
from node_timeout.domain.run import RunState
from node_timeout.domain.timeout_config import MAX_ACTION_LENGTH
from node_timeout.stores.ledger_rows import CONFIGS, HISTORY, RUNS

STATES = {
    RunState.ARMED: _("armed"),
    RunState.PAUSED: _("paused"),
    RunState.EXECUTING: _("executing"),
    RunState.HANDLED: _("handled"),
    RunState.STALE: _("stale"),
    RunState.CANCELLED: _("cancelled"),
    RunState.DEAD: _("dead"),
}
KINDS = {
    HistoryKind.FAILED: _("attempt failed"),
    HistoryKind.PUT_BACK: _("put back"),
    HistoryKind.TAKEN_OVER: _("taken over"),
    HistoryKind.LATE_RESULT: _("late result"),
    HistoryKind.PAUSED: _("paused"),
    HistoryKind.RESUMED: _("resumed"),
    HistoryKind.EXTENDED: _("deadline moved"),
    HistoryKind.RECONFIGURED: _("reconfigured"),
    HistoryKind.FIRED: _("made due at once"),
    HistoryKind.DIED: _("died"),
    HistoryKind.CANCELLED: _("cancelled"),
    HistoryKind.REPLAYED: _("replayed"),
}
READ_ONLY = "these rows are written by node-timeout alone; use node_timeout.contrib.bamboo.client()"


def ledger_alias() -> str | None:
    """The alias of the database with the tables; None if the project has none, or the app is off.
    Every page of the admin site calls it, also pages of other apps: so it never raises.
    """
    from node_timeout.contrib.bamboo import client  # noqa: PLC0415 - it needs the apps

    try:
        ledger = getattr(client(), "ledger", None)
    except NodeTimeoutError:
        return None
    return None if ledger is None else str(ledger.alias)


class RunIdField(models.Field):
    """A run id: UUID in PostgreSQL, else 16 bytes; text in Python."""

    def db_type(self, connection: Any) -> str:
        return {"postgresql": "uuid", "mysql": "binary(16)"}.get(connection.vendor, "BLOB")

    def from_db_value(self, value: Any, *_: Any) -> str | None:
        if value is None:
            return None
        return run_id.from_database(value)

    def to_python(self, value: Any) -> str | None:
        return None if value is None else str(value)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        del prepared
        if value is None:
            return None
        text = str(value)  # a URL may be typed by hand: no run has the number 0
        number = run_id.to_bytes(text) if run_id.is_run_id(text) else bytes(16)
        return uuid.UUID(bytes=number) if connection.vendor == "postgresql" else number


class _Rows(models.QuerySet):
    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(READ_ONLY)

    create = update = delete = bulk_create = bulk_update = _refuse
    get_or_create = update_or_create = _refuse


class _Manager(models.Manager.from_queryset(_Rows)):  # type: ignore[misc] # made by a call
    def get_queryset(self) -> Any:
        """The rows in the ledger's database; none if there is no such database."""
        rows = super().get_queryset()
        alias = ledger_alias()
        return rows.using(alias) if alias else rows.none()


class _ConfigManager(_Manager):
    def batch_create_node_timeout_config(
        self,
        root_pipeline_id: Any,
        pipeline_tree: Any,
        *,
        lenient: bool = False,
        payload: Any = None,
    ) -> dict[str, Any]:
        """Store the configs of a tree, like the original's method."""
        from node_timeout.contrib import bamboo  # noqa: PLC0415 - it needs the apps

        return bamboo.batch_create_node_timeout_config(
            root_pipeline_id, pipeline_tree, lenient=lenient, payload=payload
        )


class _Row(models.Model):
    class Meta:
        abstract = True

    def save(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(READ_ONLY)

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(READ_ONLY)


class TimeoutNodeConfig(_Row):
    """The timeout of one node of a root pipeline."""

    root_pipeline_id = models.CharField(_("root pipeline"), max_length=MAX_ID_LENGTH)
    # Unique only within its root pipeline; Django has no primary key of two columns.
    node_id = models.CharField(_("node"), max_length=MAX_ID_LENGTH, primary_key=True)
    action = models.CharField(_("action"), max_length=MAX_ACTION_LENGTH)
    timeout = models.FloatField(_("timeout (s)"))
    payload_json = models.TextField(_("payload"), null=True)
    expires_at = models.FloatField(_("kept until"), null=True)

    objects = _ConfigManager()

    class Meta:
        managed = False
        db_table = CONFIGS
        verbose_name = _("timeout config")
        verbose_name_plural = _("timeout configs")

    def __str__(self) -> str:
        return f"{self.root_pipeline_id}: {self.node_id}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TimeoutNodeConfig):
            return NotImplemented
        return self._node == other._node

    def __hash__(self) -> int:
        return hash(self._node)

    @property
    def _node(self) -> tuple[str, str]:
        return self.root_pipeline_id, self.node_id

    @property
    def payload(self) -> Any:
        return None if self.payload_json is None else json.loads(self.payload_json)


class TimeoutNodeRun(_Row):
    """One attempt at a node. Instants are Unix seconds."""

    run_id = RunIdField(_("run id"), primary_key=True)
    root_pipeline_id = models.CharField(_("root pipeline"), max_length=MAX_ID_LENGTH)
    node_id = models.CharField(_("node"), max_length=MAX_ID_LENGTH)
    version = models.CharField(_("version"), max_length=MAX_VERSION_LENGTH)
    action = models.CharField(_("action"), max_length=MAX_ACTION_LENGTH, null=True)
    timeout = models.FloatField(_("timeout (s)"), null=True)
    payload_json = models.TextField(_("payload"), null=True)
    trace = models.CharField(_("trace"), max_length=MAX_TRACE_LENGTH, null=True)
    state = models.CharField(_("state"), max_length=16, choices=list(STATES.items()))
    started_at = models.FloatField(_("started"), null=True)
    deadline = models.FloatField(_("deadline"), null=True)
    extended = models.FloatField(_("deadline moved by (s)"), null=True)
    next_at = models.FloatField(_("next try"), null=True)
    paused_at = models.FloatField(_("paused"), null=True)
    stopped_by = models.CharField(_("paused by"), max_length=16, null=True)
    lease_until = models.FloatField(_("lease until"), null=True)
    lease_owner = models.CharField(_("lease"), max_length=64, null=True)
    attempts = models.IntegerField(_("attempts"))
    revision = models.IntegerField(_("revision"))
    finished_at = models.FloatField(_("closed"), null=True)
    message = models.TextField(_("message"), null=True)

    objects = _Manager()

    class Meta:
        managed = False
        db_table = RUNS
        verbose_name = _("node run")
        verbose_name_plural = _("node runs")

    def __str__(self) -> str:
        return f"{self.root_pipeline_id}: {self.node_id} ({self.version})"


class TimeoutNodeHistory(_Row):
    """What happened to a run beyond the normal course."""

    id = models.BigAutoField(primary_key=True)
    run_id = RunIdField(_("run id"))
    at = models.FloatField(_("at"))
    kind = models.CharField(_("what"), max_length=16, choices=list(KINDS.items()))
    attempt = models.IntegerField(_("attempt"))
    actor = models.CharField(_("by"), max_length=MAX_ID_LENGTH, null=True)
    detail = models.TextField(_("why"), null=True)
    idempotency_key = models.CharField(max_length=MAX_KEY_LENGTH, null=True)

    objects = _Manager()

    class Meta:
        managed = False
        db_table = HISTORY
        default_permissions: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        return f"{self.run_id}: {self.kind}"


def _refuse(**_: Any) -> NoReturn:
    """Receiver that refuses writes: `manage.py loaddata` bypasses `save`, but not the signal."""
    raise TypeError(READ_ONLY)


for _model in (TimeoutNodeConfig, TimeoutNodeRun, TimeoutNodeHistory):
    pre_save.connect(_refuse, sender=_model, dispatch_uid="node_timeout")
