"""An engine's host that arms nodes through the library: `nt_arm.py SECONDS NODE_ID …`."""

import asyncio
import sys

import nt_faults

from node_timeout import NodeTimeout
from node_timeout.domain.run import NodeRun


async def main(seconds: float, node_ids: list[str]) -> None:
    history = nt_faults.FAULTS.history
    runs = [NodeRun(root_pipeline_id="root", node_id=node_id, version="v1") for node_id in node_ids]
    async with NodeTimeout() as app:
        await history.record("arming", runs, seconds=seconds)
        armed = await app.nodes_started(
            [(run.node_id, run.version, run.root_pipeline_id) for run in runs]
        )
        assert armed == len(runs)
        await history.record("armed", runs)
    await history.close()


if __name__ == "__main__":
    nt_faults.plant()
    asyncio.run(main(float(sys.argv[1]), sys.argv[2:]))
