"""The pool against a model: a Hypothesis state machine over a real Redis, and in memory.

The model's clock is the pool's; deadlines are either long past or far ahead, so that what is due
never depends on how fast the machine is.
"""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis import Redis

from node_timeout.domain.run import DueRun
from node_timeout.ports.pool import Claim
from node_timeout.stores.memory.pool import MemoryPool
from node_timeout.stores.redis.pool import RedisPool
from tests.servers import RedisServer
from tests.support import absent, id_of

T = TypeVar("T")

PAST, FUTURE = 1_000_000_000.0, 4_000_000_000.0
LEASE = 1_000_000.0
node_ids = st.sampled_from(["a", "b_1", "c", "d", "é"])
instants = st.integers(0, 20).map(lambda i: PAST + i) | st.integers(0, 20).map(lambda i: FUTURE + i)
dues = st.lists(st.tuples(node_ids, instants), max_size=4, unique_by=lambda each: each[0])


@pytest.mark.parametrize("kind", ["redis", "memory"])
def test_the_pool_does_what_its_model_does(  # noqa: C901
    redis_server: RedisServer, kind: str
) -> None:
    url = redis_server.url

    class PoolMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.loop = asyncio.new_event_loop()
            self.redis = Redis.from_url(url)
            self.redis.flushall()
            self.pool = self.do(make())
            self.scores: dict[str, float] = {}
            """Deadline of each member, or expiry of its lease."""
            self.claims: list[Claim] = []

        def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
            return self.loop.run_until_complete(coroutine)

        @rule(pairs=dues)
        def arm(self, pairs: list[tuple[str, float]]) -> None:
            due = [DueRun(run_id=id_of(node_id), due_at=at) for node_id, at in pairs]
            new = {each.run_id: each.due_at for each in due if each.run_id not in self.scores}
            assert self.do(self.pool.arm(due)) == len(new)
            self.scores |= new

        @rule(pairs=dues)
        def lower(self, pairs: list[tuple[str, float]]) -> None:
            due = [DueRun(run_id=id_of(node_id), due_at=at) for node_id, at in pairs]
            lower = {
                each.run_id: each.due_at
                for each in due
                if each.due_at < self.scores.get(each.run_id, math.inf)
            }
            assert self.do(self.pool.lower(due)) == len(lower)
            self.scores |= lower

        @rule(pairs=dues, data=st.data())
        def put_back(self, pairs: list[tuple[str, float]], data: st.DataObject) -> None:
            leases = [None, *(claim.lease for claim in self.claims)]
            due = [
                DueRun(run_id=id_of(name), due_at=at, lease=data.draw(st.sampled_from(leases)))
                for name, at in pairs
            ]
            self.do(self.pool.put_back(due))
            for each in due:
                score = self.scores.get(each.run_id, math.inf)
                is_ours = each.lease == score
                self.scores[each.run_id] = each.due_at if is_ours else min(each.due_at, score)

        @rule(names=st.lists(node_ids, max_size=3, unique=True))
        def disarm(self, names: list[str]) -> None:
            there = [id_of(name) for name in names if id_of(name) in self.scores]
            assert self.do(self.pool.disarm([id_of(name) for name in names])) == len(there)
            for member in there:
                del self.scores[member]

        @rule(limit=st.integers(1, 4))
        def claim(self, limit: int) -> None:
            claim = self.do(self.pool.shards[0].claim(limit, LEASE))
            due = {m: at for m, at in self.scores.items() if at <= claim.now}
            in_order = sorted(due, key=lambda m: (due[m], m.encode()))
            newest = limit // 4 if len(in_order) > limit else 0
            chosen = in_order[: limit - newest] + in_order[::-1][:newest]
            assert [(each.member, each.deadline) for each in claim.members] == [
                (member, due[member]) for member in chosen
            ]
            assert all(claim.lease != other.lease for other in self.claims)
            self.scores |= dict.fromkeys(chosen, claim.lease)
            assert claim.next_due_at == min(self.scores.values(), default=None)
            self.claims.append(claim)

        @rule(data=st.data())
        def finish(self, data: st.DataObject) -> None:
            if self.claims:
                claim = data.draw(st.sampled_from(self.claims))
                names = [each.member for each in claim.members]
                mine = [name for name in names if self.scores.get(name) == claim.lease]
                assert self.do(self.pool.shards[0].finish(names, claim.lease)) == len(mine)
                for name in mine:
                    del self.scores[name]

        @rule(data=st.data())
        def release(self, data: st.DataObject) -> None:
            if self.claims:
                claim = data.draw(st.sampled_from(self.claims))
                mine = {
                    each.member: each.deadline
                    for each in claim.members
                    if self.scores.get(each.member) == claim.lease
                }
                assert self.do(self.pool.shards[0].release(claim.members, claim.lease)) == len(mine)
                self.scores |= mine

        @rule(names=st.lists(node_ids, unique=True))
        def absent(self, names: list[str]) -> None:
            ids = [id_of(name) for name in names]
            expected = [each for each in ids if each not in self.scores]
            assert self.do(absent(self.pool, ids)) == expected

        @invariant()
        def the_same_members_at_the_same_instants(self) -> None:
            if isinstance(self.pool, MemoryPool):
                assert self.pool.scores == self.scores
                return
            there: Any = self.redis.zrange("model_pool", 0, -1, withscores=True)
            assert {member.decode(): score for member, score in there} == self.scores

        def teardown(self) -> None:
            self.do(self.pool.close())
            self.redis.close()
            self.loop.close()

    async def make() -> RedisPool | MemoryPool:
        return RedisPool(url, "model_pool") if kind == "redis" else MemoryPool()

    PoolMachine.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case = PoolMachine.TestCase()
    case.runTest()
