"""A clock for tests, which stands still until it is moved."""


class FakeClock:
    """Give it to `node_timeout.testing.MemoryPool`: its clock is the one that rules."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        """``now`` in Unix seconds."""
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
