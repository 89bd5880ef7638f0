"""A seat: what a sealed job's process and the driver of shared passes say to each other.

The driver runs the forward pass; the job's process serves its own code with the rows that are its own. Values lie in memory
that only those two share, and that the driver made and owns; here goes only where they lie. The same packets as on the
executor pipe (:mod:`edif.wire.pipe`): typed, bounded, never pickled, and hearsay for the driver, which checks everything.

A *location* is a number: the place in the list of all of the model's locations, which both have from the same fork.
"""

from typing import Annotated

import msgspec

MAX_IDS_BYTES = 48 * 1024
"""Token ids of one request, eight bytes each; longer prompts run alone."""
MAX_WANTS = 4096

Location = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**47)]
Row = Annotated[bytes, msgspec.Meta(max_length=MAX_IDS_BYTES)]
Scalar = bool | int | float | str | None


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Want(msgspec.Struct, frozen=True, array_like=True):
    """A visit that the job waits for: the ``occurrence``-th of ``location`` in this pass, from 0 on."""

    location: Location
    occurrence: Size


Wants = Annotated[list[Want], msgspec.Meta(max_length=MAX_WANTS)]
Watched = Annotated[list[Location], msgspec.Meta(max_length=1 << 16)]


# -- job to driver -------------------------------------------------------------------------------------
class Join(_Message, frozen=True):
    """A trace that can share a pass, with everything that the model is called with.

    Attributes:
        generates: whether it generates, or is one forward pass.
        rows: how many prompts.
        tokens: of each, padding included.
        ids: ``[rows, tokens]`` int64, native byte order.
        mask: the attention mask, likewise; empty if it is all ones.
        positions: the position ids, likewise; empty if the model counts them itself.
        options: of the generation, by name; equal ones are merged.
        wants: what it waits for.
        watched: locations whose every visit it is to be served, for its caches.
    """

    generates: bool
    rows: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    ids: Row
    mask: Row
    positions: Row
    options: Annotated[dict[str, Scalar], msgspec.Meta(max_length=32)]
    wants: Wants
    watched: Watched


class AskAlone(_Message, frozen=True):
    """A trace that runs its pass itself; it waits for :class:`Alone`."""


class AloneOver(_Message, frozen=True):
    """The pass that it ran itself is over.

    Attributes:
        used_us: processor time that it took of the job; None where it did not come to its end, since the job stopped it or failed.
    """

    used_us: Annotated[int, msgspec.Meta(ge=0, le=2**47)] | None = None


class Answer(_Message, frozen=True):
    """The job is done with a visit.

    Attributes:
        edited: indices of leaves whose rows it wrote to in place: the new ones lie where the old ones did.
        replaced: indices of leaves that it put another tensor in place of: the new rows lie ``span`` bytes behind.
        wants: what it waits for from now on.
        leaves: it takes no further part in this pass.
    """

    edited: Annotated[list[Size], msgspec.Meta(max_length=1024)]
    replaced: Annotated[list[Size], msgspec.Meta(max_length=1024)]
    wants: Wants
    leaves: bool


ToDriver = Join | AskAlone | AloneOver | Answer


# -- driver to job -------------------------------------------------------------------------------------
class Memory(_Message, frozen=True):
    """The memory of the seat, which rides along; it takes the place of an earlier one.

    It begins with how often each location was visited in this pass, int32 each; then come leaves, from ``start`` on.
    """

    start: Offset
    span: Offset


class Alone(_Message, frozen=True):
    """The trace runs its pass itself, now: the answer to :class:`AskAlone`, or to :class:`Join` if there is no company."""


class Leaf(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a value, row by row in the order of ``strides``.

    Attributes:
        tensor: a number that the tensor keeps for the time of the pass: met again, it is the same.
        memory: likewise of the memory that it lies in, which others may show too.
        successor: likewise of what the pass goes on with if the job puts another tensor in its place.
    """

    offset: Offset
    shape: list[Size]
    strides: list[Size]
    dtype: str
    tensor: Size
    memory: Size
    successor: Size


class Visit(_Message, frozen=True):
    """The pass is at a location that the job waits for.

    Attributes:
        location: which.
        occurrence: which visit of it in this pass.
        form: which of the location's known forms the value has.
        leaves: its tensors, in the order of the form.
        scalars: its numbers and texts, likewise.
        gone: tensors that the job was shown earlier in this pass, and that the pass has no more use for.
    """

    location: Location
    occurrence: Size
    form: Size
    leaves: list[Leaf]
    scalars: list[Scalar]
    gone: list[Size] = []


class Over(_Message, frozen=True):
    """The pass is over, or the job's part in it. If that ``failed`` it is void. It is said to who leaves, too.

    ``tokens`` are input tokens of the model's calls, of the job's rows.
    """

    failed: bool
    reason: str = ""
    tokens: Size = 0


ToJob = Memory | Alone | Visit | Over

to_driver: msgspec.msgpack.Decoder[ToDriver] = msgspec.msgpack.Decoder(ToDriver)
to_job: msgspec.msgpack.Decoder[ToJob] = msgspec.msgpack.Decoder(ToJob)
