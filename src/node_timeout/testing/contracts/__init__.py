"""What every store and every engine must do: one suite for each, to import into a test file."""

import pytest

SUITES = ("engine", "exchange", "ledger", "pool")
# So that a failed assertion shows what was compared; a name covers all modules below it.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in SUITES))
