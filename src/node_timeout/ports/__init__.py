"""The ports of the core: what it needs from a pool, a ledger, an exchange and a workflow engine.

Every method may raise the ``TemporaryError`` of its port (`PoolUnavailableError`,
`LedgerUnavailableError`, `ExchangeUnavailableError`, `EngineUnavailableError`). After such an
error, the call may or may not have had its effect. Repeating a call is safe unless its docstring
says otherwise. All times are Unix seconds by the clock of Redis unless stated otherwise.
"""
