"""A variable whose value is long in coming, as one that is fetched from elsewhere."""

import time
from pathlib import Path

from pipeline.core.data.var import LazyVariable


class SlowVariable(LazyVariable):
    """Has the name of a file as its value, once that file is there."""

    name = "slow"
    code = "test_slow"

    def get_value(self) -> str:
        file = Path(self.value)
        while not file.exists():
            time.sleep(0.05)
        return str(file)
