"""The HTTP API keeps to its contract whatever is sent: Schemathesis makes it up.

FUZZ_SECONDS   for how long, `make fuzz` for ten minutes; FUZZ_SEED repeats a run
"""

import asyncio
import os
import sys
from pathlib import Path

from node_timeout.domain.tokens import Role
from node_timeout.settings import Settings
from tests.integration.test_web_api import API, armed, dead, serving

SECONDS = os.environ.get("FUZZ_SECONDS", "15")
SEED = os.environ.get("FUZZ_SEED", "")
CONTRACT = Path(__file__).parents[2] / "docs/reference/api.openapi.yaml"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


async def test_whatever_is_sent_the_answer_is_one_of_the_contract(
    settings: Settings, tmp_path: Path
) -> None:
    async with serving(settings, web_rate=1_000_000) as (app, client):
        await armed(app, "a", "b", "c")
        await dead(app, "d", "e")
        await app.pause("b")
        text, _ = await app.create_token(Role.ADMIN, "a fuzzer")
        header = {"Authorization": f"Bearer {text}"}
        assert (await client.get(f"{API}/runs", headers=header)).json()["runs"]
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "schemathesis",
            *("run", str(CONTRACT), "--url", f"{client.base_url.join(API)}"),
            *("--header", f"Authorization: Bearer {text}"),
            *("--checks", ",".join(CHECKS), "--max-time", SECONDS, "--request-timeout", "20"),
            *("--suppress-health-check", "all", "--continue-on-failure", "--no-color"),
            *(("--seed", SEED) if SEED else ()),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await process.communicate()
        assert process.returncode == 0, told.decode()[-8000:]
        assert (await client.get("/healthz")).status_code == 200
