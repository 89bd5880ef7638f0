"""How a job's try in a runner can end, other than well."""

import signal

from edif.wire import pipe


class RunnerDied(Exception):
    """The process ended while it had a job.

    Attributes:
        status: its exit code, or minus the signal that ended it.
        by_its_job: whether only the job itself can have brought that about.
    """

    def __init__(self, status: int, *, by_its_job: bool) -> None:
        super().__init__(status)
        self.status = status
        self.by_its_job = by_its_job

    @property
    def sentence(self) -> str:
        if self.status == -signal.SIGKILL:
            return "The process that ran the job was killed, most likely because the node ran out of memory."
        if self.status < 0:
            return f"The process that ran the job died of signal {_signal_name(-self.status)}."
        return f"The process that ran the job exited with code {self.status}."


class AskedTwice(RunnerDied):
    """The process wants a job to be run alone that was already run again for that: ours never says so twice."""

    def __init__(self) -> None:
        super().__init__(-signal.SIGKILL, by_its_job=True)

    @property
    def sentence(self) -> str:
        return "The process that ran the job asked for another try after it had been given one."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals have none
        return str(number)


class JobRefused(Exception):
    """The executor ended the job with an error; ``failure`` is what it said."""

    def __init__(self, failure: pipe.Failed) -> None:
        super().__init__(failure.code)
        self.failure = failure


class AskedAlone(Exception):
    """The job met something that a shared pass does not offer; its argument says what, for the log."""


class Disturbed(Exception):
    """The process ended while it had several jobs, and not by this one, as far as anyone knows.

    Attributes:
        begun: whether the job's turn had come.
        suspect: whether it may have been the cause after all: it had the turn, or had begun and nobody knows who had it.
    """

    def __init__(self, *, begun: bool, suspect: bool) -> None:
        super().__init__(begun, suspect)
        self.begun = begun
        self.suspect = suspect
