"""Running one user's block on the loaded model."""

import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

from nnsight.intervention.serialization import UnknownPersistentIdError
from nnsight.schema.request import RequestModel
from nnsight.tracing import tracer as tracing

import edif
from edif.core import errors
from edif.core.errors import JobFailed
from edif.executor.keeping import Opened
from edif.executor.merging import traces
from edif.executor.merging.misfit import Misfit
from edif.executor.merging.traces import Company
from edif.executor.out_of_memory import is_out_of_memory
from edif.wire.kept import opening


class LoadedModel:
    """The served model, what was true of it before any job, and what the present job used.

    Args:
        model: the nnsight wrapper.
        adapters: the folder of each allowed PEFT adapter, by the id that requests name.

    Attributes:
        model: the nnsight wrapper.
        tokens: input tokens of the forward passes since :meth:`begin`.
        finish: waits for what was begun on the model's device, if it has one, and raises what went wrong there.
        on_job: called before anything of a job is read, of each.
    """

    def __init__(self, model: Any, adapters: dict[str, str]) -> None:
        self.model = model
        self._adapters = adapters
        self.module = model._module  # noqa: SLF001 - nnsight's own name for the wrapped module
        self.tokens = 0
        self.finish: Callable[[], None] = _nothing
        self.on_job: Callable[[], None] = _nothing
        self.plain_env = {"attn_implementation": model.attn_implementation}
        self._plain_objects: dict[str, Any] = model._remoteable_persistent_objects()  # noqa: SLF001 - nnsight's server-side hook
        self._counter = self.module.register_forward_pre_hook(self._count, with_kwargs=True)

    def release(self) -> None:
        """Leave the model as it was before this object was made."""
        self._counter.remove()

    def _count(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            embeds = kwargs.get("inputs_embeds")
            ids = None if embeds is None else embeds[..., 0]
        if ids is not None:
            self.tokens += ids.numel()

    def begin(self, env: dict[str, Any]) -> dict[str, Any]:
        """Apply the request's ``env`` and return the objects that its persistent ids name.

        Raises:
            JobFailed: the env cannot be applied to this model.
        """
        self.tokens = 0
        env = self._with_folder(env)
        try:
            self.model._remoteable_set_env(env)  # noqa: SLF001 - nnsight's server-side hook
        except Exception as error:
            raise JobFailed(
                errors.ENV_NOT_ALLOWED, f"The request's settings cannot be applied to this model: {error}."
            ) from error
        if env.get("peft") is None:
            return self._plain_objects
        objects: dict[str, Any] = self.model._remoteable_persistent_objects()  # noqa: SLF001
        return objects

    def _with_folder(self, env: dict[str, Any]) -> dict[str, Any]:
        """The env with the adapter's folder in place of its id: nothing is fetched where user code runs."""
        adapter = env.get("peft")
        if adapter is None:
            return env
        folder = self._adapters.get(adapter)
        if folder is None:
            raise JobFailed(
                errors.ENV_NOT_ALLOWED, f"The adapter {str(adapter)[:120]!r} is not allowed here."
            )
        return {**env, "peft": folder}

    def restore_env(self) -> None:
        self.model._remoteable_set_env(self.plain_env)  # noqa: SLF001 - nnsight's server-side hook


def _nothing() -> None:
    """The processor is done with what it was told to do, and what a job writes to there is its own."""


def run_job(
    loaded: LoadedModel,
    payload: bytes,
    env: dict[str, Any],
    opened: Opened,
    company: Company | None = None,
) -> dict[str, Any]:
    """Run the payload's block and return what it saved, by variable name.

    Args:
        opened: the kept values that it may use.
        company: whom it may share forward passes with, if with anybody.

    Raises:
        JobFailed: with the user's own traceback, or the reason why the payload does not fit.
        Misfit: it has to be run again, without company.
    """
    objects = loaded.begin(env)
    with opening(opened.tensor):
        tracer = _read(payload, objects)
    traces.enter(company)
    if company is not None and not company.unshared.isdisjoint(_names_in(tracer.info.code)):
        company.shares = False
    if company is not None and not company.shares:
        company.step_aside()
    try:
        saved = _execute(loaded, tracer, company)
    except JobFailed:
        _look_around(company)
        raise
    _look_around(company)
    return saved


def _look_around(company: Company | None) -> None:
    """
    Raises:
        Misfit: what the job came to does not count.
    """
    if company is not None and company.misfits:
        raise Misfit(company.misfits[0])
    if company is not None and (changed := company.disturbed()):
        raise Misfit(f"somebody changed what it ran with: {changed}")


def _execute(loaded: LoadedModel, tracer: Any, company: Company | None) -> dict[str, Any]:
    tracing.inc()
    try:
        tracer.execute(tracer.info.code)
        loaded.finish()
        marked = tracing._saves()  # noqa: SLF001 - the set that nnsight's own backends read
        return {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in marked}
    except (JobFailed, MemoryError):
        raise
    except BaseException as error:
        if company is not None and company.misfits:
            raise Misfit(company.misfits[0]) from None
        if company is not None and company.shared_passes and _may_be_of_company(error):
            raise Misfit(f"it raised {type(error).__name__}") from None
        if is_out_of_memory(error):
            raise MemoryError from error
        raise JobFailed(errors.USER_CODE, user_traceback(error)) from None
    finally:
        tracing.dec()


def _names_in(code: Any) -> Iterator[str]:
    """Every name and attribute that a block's own lines speak of."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names_in(const)


_DOUBTFUL = (AssertionError, AttributeError, NotImplementedError)


def _may_be_of_company(error: BaseException) -> bool:
    """Whether this error might be none in a pass of the job's own.

    What the job's own line raises is its own, unless it asks what kind of tensor it has: those of shared passes have no history.
    """
    stashed: TracebackType | None = getattr(error, "__intervention_tb__", None) or error.__traceback__
    frames = traceback.extract_tb(stashed)
    return not frames or not _is_users(frames[-1].filename) or isinstance(error, _DOUBTFUL)


def _read(payload: bytes, objects: dict[str, Any]) -> Any:
    try:
        return RequestModel.deserialize(payload, objects, compress=False)
    except (JobFailed, MemoryError):
        raise
    except UnknownPersistentIdError as error:
        raise JobFailed(
            errors.PAYLOAD_MISMATCH,
            f"The trace names {error.args[0]!r}, which the served model does not have.",
            "Build the client's model from the repository and revision that is served. A module of your own that "
            "you attached to it does not travel with it: attach it inside the block, or call it there.",
        ) from None
    except ModuleNotFoundError as error:
        raise JobFailed(
            errors.PAYLOAD_UNREADABLE,
            f"The trace needs the module {error.name!r}, which is not installed on the fabric.",
            f"Ship it with the trace: nnsight.register({error.name!r}), or ask your operator to install it.",
        ) from None
    except SyntaxError as error:
        raise JobFailed(
            errors.PAYLOAD_UNREADABLE, f"The trace's source does not compile here: {error}."
        ) from None
    except BaseException as error:  # noqa: BLE001 - a pickle can raise anything
        raise JobFailed(
            errors.PAYLOAD_UNREADABLE, f"The payload could not be read: {type(error).__name__}: {error}."
        ) from None


_INSTALLED = tuple(
    f"{folder}/"
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(edif.__file__).parent),
    }
)
_LONGEST_CHAIN = 5


def user_traceback(error: BaseException) -> str:
    """The traceback as its author needs it: own lines only, then the exception, its causes before it."""
    chain = [error]
    while len(chain) < _LONGEST_CHAIN and (cause := _cause(chain[-1])) is not None and cause not in chain:
        chain.append(cause)
    texts = [_one_traceback(each) for each in reversed(chain)]
    return "\n\nwhich led to\n\n".join(texts)


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    context = error.__context__
    # What was raised inside the libraries on the way is their business, unless a line of the user's is in it.
    hidden = context is None or error.__suppress_context__ or not _own_frames(context)
    return None if hidden else context


def _one_traceback(error: BaseException) -> str:
    frames = _own_frames(error)
    lines: list[str] = []
    if frames:
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)]
    lines += traceback.format_exception_only(error)
    return "".join(lines).rstrip()


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    # nnsight stashes the block's part on the exception before the model's frames pile up on it.
    stashed: TracebackType | None = getattr(error, "__intervention_tb__", None) or error.__traceback__
    return [frame for frame in traceback.extract_tb(stashed) if _is_users(frame.filename)]


def _is_users(filename: str) -> bool:
    return not filename.startswith(("<frozen ", *_INSTALLED))
