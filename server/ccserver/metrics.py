"""What is counted for Prometheus: one registry a process, made with the app. No tenant's name or id is in any label."""

import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of a process; gauges of the database and the pool are set when somebody scrapes."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def gauge(name: str, says: str, *labels: str) -> Gauge:
            return Gauge(f"ccserver_{name}", says, labels, registry=registry)

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"ccserver_{name}", says, labels, registry=registry)

        self.requests = counter("requests", "Requests by route template.", "route", "method", "status")
        self.seconds = Histogram(
            "ccserver_request_seconds", "Time to the answer's end.", ("route",), buckets=_SECONDS, registry=registry
        )
        self.refusals = counter("refusals", "Problem documents by the stable end of their type.", "problem")
        self.appended = counter("appended_entries", "Entries appended to logs and committed.")
        self.receipts = counter("receipts", "Receipts given for a batch.")
        self.limited = counter("limited", "Calls answered 429, by the limit that said so.", "limit")
        self.sweep_runs = counter("sweep_runs", "Runs of this process, by result.", "sweep", "result")
        self.sweep_rows = counter("sweep_rows", "Rows that this process changed.", "sweep")
        self.sweep_begun = gauge("sweep_begun_timestamp_seconds", "When any process last began it.", "sweep")
        self.sweep_done = gauge("sweep_done_timestamp_seconds", "When any process last ended it well.", "sweep")
        self.sweep_failures = gauge("sweep_failures", "Failed runs of all processes, ever.", "sweep")
        self.told = counter("notification_attempts", "Attempts of this process to tell somebody.", "kind", "result")
        self.waiting_notifications = gauge("notifications_waiting", "Messages not sent yet; counted up to 10,001.")
        self.oldest_notification = gauge("notifications_oldest_seconds", "Age of the oldest of them.")
        self.dead_notifications = gauge("notifications_dead", "Messages given up within a day; up to 10,001.")
        self.pool = gauge("pool_connections", "Connections to the database.", "state")
        self.pool_wait = gauge("pool_wait_seconds_total", "Time spent waiting for a connection.")
        self.pool_acquired = gauge("pool_acquired_total", "Connections lent.")
        self.pool_timeouts = gauge("pool_timeouts_total", "Times that no connection came free in time.")
        self.appliances = gauge("appliances", "Appliances in service.", "state")
        self.dead_letters = gauge("dead_letters", "Entries stored and not understood; counted up to 10,001.")
        self.equivocations = gauge("equivocations", "Recorded forks; counted up to 10,001.")
        self.logs_not_whole = gauge("logs_not_whole", "Stored logs that are not what was receipted.")
        self.schema = gauge("schema_version", "Number of the last migration.")
        self.up = gauge("database_up", "Whether the database answered this scrape.")
        self.key_files_refused = gauge("key_files_refused_total", "New key files that were not taken.")
        build = Info("ccserver_build", "This release.", registry=registry)
        build.info({"version": version("ccserver"), "python": platform.python_version()})
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; what it counts in is looked up by its labels once, and there are as many as labels."""
        known = self._answered.get((route, method, status))
        if known is None:
            known = self.requests.labels(route, method, str(status)), self.seconds.labels(route)
            self._answered[route, method, status] = known
        known[0].inc()
        known[1].observe(seconds)
