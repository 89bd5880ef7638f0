"""What Python and its libraries keep for the whole process and a job may set: noted once, put back."""

import gc
import locale
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

_environ = os.environ  # noqa: TID251 - not read, but put back
_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class _Logger(NamedTuple):
    level: int
    disabled: bool
    propagate: bool
    handlers: list[logging.Handler]
    filters: list[Any]


class Interpreter:
    """Notes, when made, what holds: where messages go, what signals do, the environment, the folder, how numbers are printed."""

    def __init__(self) -> None:
        self._loggers = {name: _noted(each) for name, each in _loggers().items()}
        self._logging_off = logging.root.manager.disable
        self._handlers = {each: signal.getsignal(each) for each in _SIGNALS}
        self._environment = dict(_environ)
        self._folder = _folder()
        self._printed = dict(vars(torch._tensor_str.PRINT_OPTS))  # noqa: SLF001 - no public way to read them
        self._printed_by_numpy = np.get_printoptions()
        self._float_errors = np.geterr()
        self._limit = sys.getrecursionlimit()
        self._collects = gc.isenabled()
        self._locale = locale.setlocale(locale.LC_ALL)

    def restore(self) -> None:
        self._restore_logging()
        self._restore_signals()
        if dict(_environ) != self._environment:
            _environ.clear()
            _environ.update(self._environment)
        if self._folder is not None and _folder() != self._folder:
            os.chdir(self._folder)
        vars(torch._tensor_str.PRINT_OPTS).update(self._printed)  # noqa: SLF001
        np.set_printoptions(**self._printed_by_numpy)
        np.seterr(**self._float_errors)
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        sys.setrecursionlimit(self._limit)
        if gc.isenabled() is not self._collects:
            (gc.enable if self._collects else gc.disable)()

    def _restore_logging(self) -> None:
        logging.root.manager.disable = self._logging_off
        for name, logger in _loggers().items():
            noted = self._loggers.get(name)
            if noted is None:
                # Of a library that was imported since, maybe: but nothing goes to a job that is over.
                logger.handlers[:] = [
                    each for each in logger.handlers if not isinstance(each, logging.StreamHandler)
                ]
                continue
            if _noted(logger) == noted:
                continue
            logger.disabled, logger.propagate = noted.disabled, noted.propagate
            logger.handlers[:] = noted.handlers
            logger.filters[:] = noted.filters
            logger.setLevel(noted.level)

    def _restore_signals(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for each, handler in self._handlers.items():
            if handler is not None and signal.getsignal(each) != handler:
                signal.signal(each, handler)


def _loggers() -> dict[str, logging.Logger]:
    named = {
        name: each
        for name, each in logging.root.manager.loggerDict.items()
        if isinstance(each, logging.Logger)
    }
    return {**named, "": logging.root}


def _noted(logger: logging.Logger) -> _Logger:
    return _Logger(
        logger.level, logger.disabled, logger.propagate, list(logger.handlers), list(logger.filters)
    )


def _folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted
        return None
