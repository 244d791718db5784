"""All metrics. Their names and labels are API; docs/reference/metrics.md lists them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ARMED_TOTAL = Counter("node_timeout_armed", "Node runs armed by the tracker")
ARM_FAILURES = Counter(
    "node_timeout_arm_failures", "Node runs in the ledger whose arming or disarming Redis missed"
)
NOT_ARMED = Counter(
    "node_timeout_not_armed",
    "Starts of node runs that armed nothing: no timeout config, or the run is closed already",
)
DISARMED = Counter("node_timeout_disarmed", "Node runs disarmed by the tracker")

EVENTS = Counter("node_timeout_events", "Events read from the events queue")
EVENTS_MISSED = Counter(
    "node_timeout_events_missed", "State changes of bamboo-engine that could not be recorded"
)
SURVEYED = Counter(
    "node_timeout_surveyed", "Node runs whose event was lost, armed by the engine's own word"
)

CLAIMED = Counter("node_timeout_claimed", "Pool members claimed by this scanner")
PUBLISHED = Counter("node_timeout_published", "Node runs published and confirmed")
UNCONFIRMED = Counter(
    "node_timeout_unconfirmed", "Node runs whose publish was not confirmed; their lease expires"
)
UNREADABLE = Counter(
    "node_timeout_unreadable", "Pool members and messages sent to the dead-letter queue", ["source"]
)

DEAD_LETTER_FAILURES = Counter(
    "node_timeout_dead_letter_failures",
    "Tries that the dead-letter queue refused or did not confirm",
    ["source"],
)

OUTCOMES = Counter("node_timeout_outcomes", "Node runs dealt with", ["action", "state"])
DROPPED = Counter(
    "node_timeout_dropped", "Dispatched node runs that were closed already", ["state"]
)
LATE_RESULTS = Counter(
    "node_timeout_late_results", "Outcomes that came after the worker's lease had run out"
)
RETRIES = Counter("node_timeout_retries", "Strategy calls that will be tried again", ["action"])
LEASE_STEALS = Counter(
    "node_timeout_lease_steals", "Node runs taken over from a worker whose lease ran out"
)
FORWARDED = Counter("node_timeout_forwarded", "Node runs forwarded to a handle queue", ["queue"])
LATENESS = Histogram(
    "node_timeout_lateness_seconds",
    "First strategy call minus deadline",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600),
)
STRATEGY_SECONDS = Histogram(
    "node_timeout_strategy_seconds", "Duration of one strategy call", ["action"]
)

ENGINE_RESTING = Gauge(
    "node_timeout_engine_resting", "1 while the engine is not called, as it failed too often"
)

REARMED = Counter("node_timeout_rearmed", "Ledger rows the reconciler put back into the pool")
PURGED = Counter("node_timeout_purged", "Closed ledger rows deleted after their retention")
CONFIGS_PURGED = Counter(
    "node_timeout_configs_purged", "Configs deleted after their root pipeline had ended"
)
LOOP_ERRORS = Counter("node_timeout_loop_errors", "Passes of a service that failed", ["service"])

POOL_ARMED = Gauge("node_timeout_pool_armed", "Members of the executing pool")
POOL_OVERDUE = Gauge("node_timeout_pool_overdue", "Members whose deadline has passed")
POOL_OLDEST_OVERDUE = Gauge(
    "node_timeout_pool_oldest_overdue_seconds", "Age of the oldest overdue member"
)
POOL_OVERDUE_FOR = Gauge(
    "node_timeout_pool_overdue_for",
    "Members whose deadline passed so many seconds ago, or longer",
    ["seconds"],
)
ALIVE = Gauge(
    "node_timeout_alive", "Living services of all processes, as each says of itself", ["role"]
)
CANARY_LATENESS = Histogram(
    "node_timeout_canary_lateness_seconds",
    "When a canary was recorded, minus its deadline",
    ["shard"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
CANARY_INTERVAL = Gauge(
    "node_timeout_canary_interval_seconds", "How often each shard gets a canary"
)
CANARY_LAST = Gauge(
    "node_timeout_canary_last_seconds",
    "Unix time when the last canary ended; before the first, when this process began to send them",
    ["shard"],
)
CANARY_MISSED = Counter(
    "node_timeout_canary_missed", "Canaries that did not end, or not as they should", ["shard"]
)
CHANGES = Counter(
    "node_timeout_changes", "Runs that somebody ordered to be changed", ["change", "verdict"]
)
PAUSED = Gauge("node_timeout_paused", "Ledger rows in state paused")
DEAD = Gauge("node_timeout_dead", "Ledger rows in state dead")
