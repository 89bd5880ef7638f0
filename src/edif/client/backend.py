"""What nnsight runs a trace with when it says ``remote=True``."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.modeling.mixins.remotable import Remotable
from nnsight.schema.request import RequestModel
from nnsight.schema.response import Status

from edif.client.batch import open_batch
from edif.client.job import Job
from edif.core.errors import EdifError
from edif.wire.kept import noting_uses

_stock: Callable[..., Any] = Remotable._remote_backend  # noqa: SLF001 - nnsight's one place where backends are made


class Way(Protocol):
    """To the fabric: its :class:`~edif.client.connection.Connection`."""

    url: str

    def submit(self, request: RequestModel, blob: bytes, uses: Sequence[str]) -> Job: ...

    def job(self, job_id: str) -> Job: ...


class ConnectedBackend(RemoteBackend):  # type: ignore[misc]  # nnsight has no types
    """The stock backend with another way to the fabric; serialising, displaying and handing over are nnsight's own.

    Attributes:
        job: what the trace became; None before it was sent.
    """

    def __init__(self, connection: Way, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection = connection
        self.job: Job | None = None
        self._uses: list[str] = []

    def __call__(self, tracer: Any = None) -> Any:
        """Run the trace: blocking ones return with their values handed over, others when they are sent. Later calls poll."""
        if not self.blocking and self.job_id is not None:
            return self.poll(tracer)
        self.meta: dict[str, Any] | None = None
        with noting_uses() as uses:
            blob = self._serialize(tracer)
        self._uses = sorted(uses)
        batch = open_batch() if self.blocking else None
        if batch is not None:
            batch.add(self, tracer, blob)
            return None
        self.send_once(blob)
        if not self.blocking:
            return None
        result = self.result()
        self._push(result, tracer)
        return result

    def send_once(self, blob: bytes) -> Job:
        """
        Raises:
            RemoteError: it was refused, as nnsight has it.
        """
        request = RequestModel(model_key=self.model_key, compress=self.compress, env=self.env)
        try:
            self.job = self._connection.submit(request, blob, self._uses)
        except EdifError as error:
            raise RemoteError(f"Failed to send request: {error}") from error
        self.job_id = self.job.id
        self.status = Status.RECEIVED  # what has become of it since, a poll says
        return self.job

    def poll(self, tracer: Any = None) -> Any:
        """The result of a job that was sent without waiting, None while it has not ended."""
        if self.job is None:
            self.job = self._connection.job(self.job_id)
        self.status = Status(self.job.status)
        return self.result() if self.job.done else None

    def result(self) -> Any:
        """The saved values by name, when the job has ended."""
        assert self.job is not None
        try:
            return self.job.result(display=self.display)
        finally:
            self.status = Status(self.job.status)
            self.meta = None if self.job.cost is None else self.job.cost.meta


def remote_backend(connection: Way) -> Callable[..., Any]:
    """In place of ``Remotable._remote_backend``: other hosts and ``remote="local"`` stay nnsight's own."""

    def make(model: Any, remote: bool | str, blocking: bool, job_id: str | None, verbose: bool) -> Any:
        if remote is not True and str(remote).rstrip("/") != connection.url:
            return _stock(model, remote, blocking, job_id, verbose)
        return ConnectedBackend(
            connection,
            model.to_model_key(),
            host=connection.url,
            env=model._remoteable_get_env(),  # noqa: SLF001 - as nnsight's own does
            blocking=blocking,
            job_id=job_id,
            verbose=verbose,
        )

    return make
