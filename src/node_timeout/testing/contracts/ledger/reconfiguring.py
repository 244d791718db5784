"""Runs that follow an edited config: every ledger follows `domain.changes`."""

import pytest

from node_timeout.domain.changes import Extend, Pause, Reconfigure, Resume, Verdict
from node_timeout.domain.history import HistoryKind
from node_timeout.ports.ledger import Ledger
from node_timeout.testing.contracts.ledger.acts import NOW, A, armed, change, row_of, take
from node_timeout.testing.words import config, configure, run


async def test_a_run_follows_the_config_of_now(ledger: Ledger) -> None:
    await armed(ledger, "a", "b")
    await change(ledger, Extend(by=50), A)
    await change(ledger, Pause(), run("b"), now=NOW + 40)
    new = config("a", 300, action="notify", payload={"to": "ann"})
    await configure(ledger, new, config("b", 70))
    before = [await row_of(ledger, each) for each in "ab"]
    assert [row.timeout for row in before] == [100, 100], "a config that is edited changes no run"
    judged = await change(ledger, Reconfigure(), run("b"), A, now=NOW + 60, reason="slow")
    row = await row_of(ledger)
    assert (judged.verdict, judged.row) == (Verdict.DONE, row)
    assert (row.action, row.timeout, row.payload_json) == ("notify", 300, new.payload_json)
    assert row.deadline == row.next_at == pytest.approx(NOW + 350), "what was added stays"
    assert (row.extended, row.revision) == (50, 2)
    entry = (await ledger.history([A.run_id]))[-1]
    assert (entry.kind, entry.actor) == (HistoryKind.RECONFIGURED, "ann")
    assert (entry.detail or "").startswith("notify after 300 s, the deadline is ")
    assert (entry.detail or "").endswith("slow")
    judged = await change(ledger, Reconfigure(), A)
    assert (judged.verdict, judged.entry) == (Verdict.UNCHANGED, None)
    await change(ledger, Resume(), run("b"), now=NOW + 1000)
    row = await row_of(ledger, "b")
    assert row.next_at == pytest.approx(NOW + 1030), "of 70 s were 40 used up"


async def test_a_run_whose_new_deadline_has_passed_is_due_now(ledger: Ledger) -> None:
    await armed(ledger, "a")
    await configure(ledger, config("a", 20))
    await change(ledger, Reconfigure(), A, now=NOW + 60)
    row = await row_of(ledger)
    assert row.deadline == row.next_at == pytest.approx(NOW + 60)
    assert row.extended == pytest.approx(40), "longer than its config has it"
    await configure(ledger, config("a", 100))
    await change(ledger, Reconfigure(), A, now=NOW + 60)
    row = await row_of(ledger)
    assert row.deadline == pytest.approx(NOW + 140)
    assert row.extended == pytest.approx(40)
    taking = await take(ledger, A, now=NOW + 140)
    assert [node.revision for node in taking.taken] == [2]


async def test_an_overdue_run_is_given_more_time_in_steps(ledger: Ledger) -> None:
    """Several steps give as much time as one: added time that did not suffice is not lost."""
    await armed(ledger, "a")
    for seconds in (150, 300):
        await configure(ledger, config("a", seconds))
        await change(ledger, Reconfigure(), A, now=NOW + 200)
        row = await row_of(ledger)
        assert row.deadline == row.next_at == pytest.approx(NOW + seconds)
        assert row.extended is None


async def test_a_config_that_is_missing_or_too_long_is_not_followed(ledger: Ledger) -> None:
    await armed(ledger, "a")
    before = await row_of(ledger)
    await configure(ledger, config("a", 1001))
    assert (await change(ledger, Reconfigure(), A)).verdict is Verdict.OVER_CAP
    await ledger.forget_root("root")
    assert (await change(ledger, Reconfigure(), A)).verdict is Verdict.NO_CONFIG
    assert await row_of(ledger) == before
