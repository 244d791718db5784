"""The Lua scripts, each in a file of its own."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError


class Script:
    """A Lua script beside this file; its text is sent only to a server that does not know it."""

    def __init__(self, name: str) -> None:
        self.text = (files("node_timeout.stores.redis") / "lua" / f"{name}.lua").read_text()
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Any, key: str, *args: Any) -> Any:
        try:
            return await client.evalsha(self.sha, 1, key, *args)
        except NoScriptError:
            return await client.eval(self.text, 1, key, *args)

    def run_blocking(self, client: Any, key: str, *args: Any) -> Any:
        """The same with a synchronous client."""
        try:
            return client.evalsha(self.sha, 1, key, *args)
        except NoScriptError:
            return client.eval(self.text, 1, key, *args)
