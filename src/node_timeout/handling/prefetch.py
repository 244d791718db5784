"""Prefetch: how many messages of the dispatch queue a worker has in hand.

A message may carry one node or hundreds. Many large ones in hand are taken from other workers, and
keep what falls due meanwhile waiting; few small ones leave slots empty. So it begins with few, has
twice as many when those do not fill the slots, and few again when they turn out large, or stop
coming.
"""

FEW = 8
QUIET_SECONDS = 1.0
"""Without a message for this long, what comes next may be large."""


class Prefetch:
    """The number of messages, as it follows what comes."""

    def __init__(self, *, slots: int, nodes_per_batch: int) -> None:
        """``slots`` is the most; so many strategies run at once."""
        self._slots = slots
        self._few = min(FEW, slots)
        self._nodes_per_batch = nodes_per_batch
        self._are_large = False
        self.messages = self._few

    @property
    def is_raised(self) -> bool:
        return self.messages > self._few

    def weigh(self, nodes: int, messages: int) -> None:
        """A batch of messages carried so many nodes; those of a moment are much alike."""
        in_hand = FEW * nodes / max(1, messages)
        if in_hand > 2 * self._nodes_per_batch:
            self._are_large = True
            self.messages = self._few
        elif in_hand < self._nodes_per_batch / 2:
            self._are_large = False

    def have_in_hand(self, messages: int, busy_slots: int) -> None:
        """All that may be in hand is, and slots are empty: have more."""
        if messages >= self.messages and busy_slots < self._slots and not self._are_large:
            self.messages = min(2 * self.messages, self._slots)

    def nothing_comes(self) -> None:
        self.messages = self._few
