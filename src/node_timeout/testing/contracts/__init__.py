"""What every store and every engine does: a suite for each, to be imported into a test file."""

import pytest

SUITES = ("engine", "exchange", "ledger", "pool")
# So that a failed assertion says what was compared; a name stands for all below it.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in SUITES))
