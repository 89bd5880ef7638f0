"""Which warnings a job has been shown, of those that are given once, and which it wants to see.

Python notes that in the modules that give them, for the whole process: of several jobs only the first would see one. Where one of
them changes what is to be shown, Python forgets what was shown to any, so others may see a warning twice.
"""

import sys
import warnings
from typing import Any

from nnsight.intervention import interleaver

_SHOWN = "__warningregistry__"
_NAMES = ("filters", "onceregistry", "showwarning", "_showwarnmsg_impl")
_show: Any = vars(warnings)["_showwarnmsg"]
_givers: list[dict[str, Any]] = []
"""Names of installed modules that have given warnings. nnsight's interleaver is seen to elsewhere."""


def _note_and_show(message: Any) -> None:
    """What Python calls with each warning that is shown. Whoever gives it is among the callers."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to one's callers
    while frame is not None:
        _note(frame.f_globals)
        frame = frame.f_back  # type: ignore[assignment]  # of the last one it is None
    _show(message)


def _note(names: dict[str, Any]) -> None:
    file = names.get("__file__")
    installed = isinstance(file, str) and ("/site-packages/" in file or "/lib/python3" in file)
    new = installed and names is not vars(interleaver) and not any(names is each for each in _givers)
    if new and _SHOWN in names:
        _givers.append(names)


def _watch() -> None:
    if vars(warnings)["_showwarnmsg"] is not _note_and_show:
        vars(warnings)["_showwarnmsg"] = _note_and_show
        for module in list(sys.modules.values()):
            _note(getattr(module, "__dict__", {}))


class Warned:
    """That of one job while it is not its turn, and of the others while it is. It has not been shown any yet."""

    def __init__(self) -> None:
        _watch()
        self._shown: list[dict[Any, Any]] = []
        wanted = vars(warnings)
        self._named = [list(wanted["filters"]), {}, *(wanted[name] for name in _NAMES[2:])]

    def change(self) -> None:
        """Put this in the place of the present one, and that one here: called twice, all is as it was."""
        for index, names in enumerate(_givers):
            if index == len(self._shown):
                self._shown.append({})
            self._shown[index], names[_SHOWN] = names.get(_SHOWN, {}), self._shown[index]
        present = vars(warnings)
        for index, name in enumerate(_NAMES):
            self._named[index], present[name] = present[name], self._named[index]
