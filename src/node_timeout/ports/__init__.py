"""The ports of the core: what it asks of a pool, a ledger, an exchange and a workflow engine.

Every method may raise the ``TemporaryError`` of its port (`PoolUnavailableError`,
`LedgerUnavailableError`, `ExchangeUnavailableError`, `EngineUnavailableError`); after one, the
call may or may not have had its effect, and repeating it is safe unless its docstring says
otherwise. All times are Unix seconds by the clock of Redis unless said otherwise.
"""
