"""The HTTP API and the console: `node_timeout.operations` for programs and people elsewhere."""
