"""A clock for tests, which stands still until the test moves it."""


class FakeClock:
    """Give it to `node_timeout.testing.MemoryPool`: all deadlines follow the pool's clock."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        """``now`` is in Unix seconds."""
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
