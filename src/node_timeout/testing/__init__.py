"""For your own tests: stores in memory, a fake engine, a clock; and suites for pytest.

The suites are modules of `node_timeout.testing.contracts`: they test what every engine, ledger,
pool and exchange must do. Only they need pytest and pytest-asyncio.
"""

from node_timeout.stores.memory.exchange import MemoryExchange as MemoryExchange
from node_timeout.stores.memory.ledger import MemoryLedger as MemoryLedger
from node_timeout.stores.memory.pool import MemoryPool as MemoryPool
from node_timeout.testing.clock import FakeClock as FakeClock
from node_timeout.testing.engine import FakeEngine as FakeEngine
