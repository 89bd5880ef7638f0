"""Prometheus metrics of the gateway; ``docs/metrics.md`` lists them."""

from prometheus_client import Counter, Gauge

JOBS_ACCEPTED = Counter("edif_jobs_accepted", "Jobs accepted, by model", ["model"])
JOBS_ENDED = Counter("edif_jobs_ended", "Jobs that ended, by model and final state", ["model", "state"])
JOBS_MERGED = Counter(
    "edif_jobs_merged", "Jobs that ended and had shared a forward pass with others, by model", ["model"]
)
REFUSED = Counter("edif_refused", "Requests and connections that were refused, by error code", ["code"])
CONNECTIONS = Gauge("edif_connections", "Open connections of the gateway")
