"""Prefetch: how many messages of the dispatch queue a worker holds unacknowledged.

A message may carry one node or hundreds. A worker that holds many large messages keeps them from
other workers, and makes nodes that fall due meanwhile wait. A worker that holds few small ones
leaves slots empty. So the number starts small, doubles while the messages do not fill the slots,
and becomes small again when messages turn out large or stop coming.
"""

FEW = 8
QUIET_SECONDS = 1.0
"""After this long without a message, the next ones may be large."""


class Prefetch:
    """The number of messages to hold; it adapts to the messages that come."""

    def __init__(self, *, slots: int, nodes_per_batch: int) -> None:
        """``slots``: how many strategies run at once; also the most messages to hold."""
        self._slots = slots
        self._few = min(FEW, slots)
        self._nodes_per_batch = nodes_per_batch
        self._are_large = False
        self.messages = self._few

    @property
    def is_raised(self) -> bool:
        return self.messages > self._few

    def weigh(self, nodes: int, messages: int) -> None:
        """Note the size of a batch; messages that come at the same time are about equally large."""
        in_hand = FEW * nodes / max(1, messages)
        if in_hand > 2 * self._nodes_per_batch:
            self._are_large = True
            self.messages = self._few
        elif in_hand < self._nodes_per_batch / 2:
            self._are_large = False

    def have_in_hand(self, messages: int, busy_slots: int) -> None:
        """Raise the number if the worker holds all it may and slots are empty."""
        if messages >= self.messages and busy_slots < self._slots and not self._are_large:
            self.messages = min(2 * self.messages, self._slots)

    def nothing_comes(self) -> None:
        self.messages = self._few
