"""What every ledger does. A suite for pytest: give it a fixture ``ledger``, an empty one.

from node_timeout.testing.contracts.ledger import *
"""

from node_timeout.testing.contracts.ledger.changes import *
from node_timeout.testing.contracts.ledger.configs import *
from node_timeout.testing.contracts.ledger.events import *
from node_timeout.testing.contracts.ledger.keeping import *
from node_timeout.testing.contracts.ledger.outcomes import *
from node_timeout.testing.contracts.ledger.reconfiguring import *
from node_timeout.testing.contracts.ledger.takings import *
