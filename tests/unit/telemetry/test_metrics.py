"""The metrics and their page in the documentation say the same."""

from prometheus_client.metrics import MetricWrapperBase

from edif.telemetry import metrics
from tests.unit.docs import plain, rows


def declared() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Kind, labels and meaning of each metric, by the name under which Prometheus sees it."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            name = metric._name + ("_total" if metric._type == "counter" else "")
            found[name] = (metric._type, metric._labelnames, metric._documentation)
    return found


def test_page_lists_exactly_the_metrics_in_their_order() -> None:
    assert [plain(row[0]) for row in rows("metrics.md")] == list(declared())


def test_page_tells_kind_labels_and_meaning() -> None:
    for name, kind, labels, meaning in rows("metrics.md"):
        named = tuple(plain(label.strip()) for label in labels.split(",")) if labels else ()
        assert (kind, named, meaning) == declared()[plain(name)]


def test_every_metric_is_one_of_edifs() -> None:
    assert declared()
    assert all(name.startswith("edif_") for name in declared())
