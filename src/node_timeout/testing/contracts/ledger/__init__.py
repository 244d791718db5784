"""What every ledger must do: a pytest suite. Provide an empty one as fixture ``ledger``.

from node_timeout.testing.contracts.ledger import *
"""

from node_timeout.testing.contracts.ledger.changes import *
from node_timeout.testing.contracts.ledger.configs import *
from node_timeout.testing.contracts.ledger.events import *
from node_timeout.testing.contracts.ledger.keeping import *
from node_timeout.testing.contracts.ledger.outcomes import *
from node_timeout.testing.contracts.ledger.reconfiguring import *
from node_timeout.testing.contracts.ledger.takings import *
