"""Which process writes which counter: a worker must not report "database_connected 0"."""

from daemon.watching.readings import ProcessReading

ALL = "rss_bytes alerts_raised alerts_lost"
WORKER = """
    frames_received bytes_received records_received records_quarantined control_frames ring_full_waits socket_pauses
    connections_opened connections_lost connections_ready connections_planned subscriptions_confirmed
    subscriptions_pending subscriptions_failed subscriptions_suspected pingpongs gaps_recorded volume_gaps
    duplicates_dropped records_late limits_learned attempts_withheld watchdog_warnings watchdog_resubscriptions
    watchdog_reconnections order_notices account_keys_fetched tail_bytes_cut last_data_ns raw_frames raw_frames_dropped
    synced_lag_bytes
"""
PUBLISHER = """
    records_published publish_batches publish_lapped publish_errors redis_connected publisher_lag_bytes corrupt_records
    records_dropped_on_redis stream_gaps
"""
WRITER = """
    rows_committed batches_committed commit_retries database_connected writer_lag_bytes writer_lag_records writer_lapped
    last_commit_ns corrupt_records batches_spilled records_spilled spill_files spill_bytes spill_failures
    batches_recovered records_recovered rows_refused rows_already_stored
"""
COUNTERS_OF = {
    role: frozenset(f"{names} {ALL}".split())
    for role, names in {
        "worker": WORKER,
        "publisher": PUBLISHER,
        "writer": WRITER,
        "recorder": "raw_frames_recorded raw_frames_dropped raw_bytes_written",
        "supervisor": "restarts",
        "monitor": "alerts_published alerts_suppressed minutes_reconciled reconcile_differences quarantine_replayed",
    }.items()
}
ASSIGNED = frozenset().union(*COUNTERS_OF.values())


def relevant_counters(process: ProcessReading) -> dict[str, int]:
    """Return the counters that *process* writes; one that is assigned to nobody is shown where it is not 0."""
    own = COUNTERS_OF.get(process.role, frozenset())
    return {name: value for name, value in process.values.items() if name in own or (value and name not in ASSIGNED)}
