"""How many messages a worker has in hand."""

from node_timeout.handling.prefetch import FEW, Prefetch


def prefetch(slots: int = 64) -> Prefetch:
    return Prefetch(slots=slots, nodes_per_batch=4 * slots)


def test_it_begins_with_few_as_the_first_may_be_large() -> None:
    assert prefetch().messages == FEW
    assert prefetch(slots=2).messages == 2


def test_small_messages_that_leave_slots_empty_raise_it_up_to_the_slots() -> None:
    it = prefetch()
    it.weigh(nodes=8, messages=8)
    for expected in (16, 32, 64, 64):
        it.have_in_hand(it.messages, busy_slots=63)
        assert it.messages == expected
    assert it.is_raised


def test_it_stays_as_long_as_there_is_room_or_no_slot_is_empty() -> None:
    it = prefetch()
    it.have_in_hand(FEW - 1, busy_slots=0)
    it.have_in_hand(FEW, busy_slots=64)
    assert it.messages == FEW


def test_large_messages_and_a_quiet_time_bring_it_back_to_few() -> None:
    it = prefetch()
    it.have_in_hand(FEW, busy_slots=0)
    it.weigh(nodes=250, messages=1)
    assert it.messages == FEW
    it.have_in_hand(FEW, busy_slots=0)
    assert it.messages == FEW, "they are large still"
    it.weigh(nodes=5, messages=5)
    it.have_in_hand(FEW, busy_slots=0)
    assert it.messages == 2 * FEW
    it.nothing_comes()
    assert it.messages == FEW


def test_an_empty_batch_weighs_nothing() -> None:
    it = prefetch()
    it.weigh(nodes=0, messages=0)
    assert it.messages == FEW
