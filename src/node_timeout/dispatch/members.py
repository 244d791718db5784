"""Reads members of the pool: which runs they name."""

from collections.abc import Sequence

from node_timeout.domain.errors import InvalidNodeRunError
from node_timeout.domain.run import DueRun, ForeignRun
from node_timeout.domain.run_id import is_run_id
from node_timeout.ports.pool import ClaimedMember


def read(
    claimed: Sequence[ClaimedMember],
) -> tuple[list[ClaimedMember], list[DueRun | ForeignRun], dict[str, str]]:
    """Split into members that name a run, their runs, and unreadable members with the reason."""
    members: list[ClaimedMember] = []
    due: list[DueRun | ForeignRun] = []
    unreadable: dict[str, str] = {}
    for each in claimed:
        # A score of -inf, which anyone may write, is no instant: treat it as due long ago.
        due_at = max(each.deadline, 0.0)
        try:
            if is_run_id(each.member):
                due.append(DueRun(run_id=each.member, due_at=due_at))
            else:
                due.append(ForeignRun.parse(each.member, due_at))
        except InvalidNodeRunError as error:
            unreadable[each.member] = str(error)
        else:
            members.append(each)
    return members, due, unreadable
