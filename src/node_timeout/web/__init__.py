"""The HTTP API and the console: `node_timeout.operations` over HTTP, for programs and people."""
