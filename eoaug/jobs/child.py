"""A process that works on one item after the other for a job, and can be ended: a thread that hangs cannot."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from eoaug.errors import JobError, first_line

if TYPE_CHECKING:
    from eoaug.jobs.work_items import JobContext, WorkItem, WorkResult

__all__ = ["Child", "ChildLostError", "ChildTimeoutError", "child_of", "end_child", "main"]


type Attempt = Callable[[WorkItem, JobContext], WorkResult]
"""Works on an item once."""

_START_S = 300.0
"""Longest time until a new process is ready: it imports torch and loads the weights."""
_END_S = 10.0


class ChildTimeoutError(Exception):
    """The item took too long; the process has been ended."""


class ChildLostError(Exception):
    """The process ended itself, or was killed."""


class Child:
    """A process with the context of a job.

    Parameters
    ----------
    context
        What the process needs to know; a generator that was given as an object is sent with its code.
    attempt
        Returns the result of an item; never raises.

    Raises
    ------
    JobError
        The generator cannot be sent to a process.
    """

    def __init__(self, context: JobContext, attempt: Attempt) -> None:
        import cloudpickle

        try:
            sent = cloudpickle.dumps((context, attempt))
        except Exception as error:  # whatever a generator of the user cannot do
            raise JobError(
                f"run.timeout_s needs a process of its own, and the job cannot be sent to one: {first_line(error)}",
                "leave run.timeout_s out, or give a generator that can be pickled",
            ) from error
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from eoaug.jobs.child import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        weakref.finalize(self, _end, self._process)
        threading.Thread(
            target=_collect, args=(self._process.stdout, self._answers), name="eoaug answers", daemon=True
        ).start()
        self._send(sent)
        self._answer(_START_S)

    def result(self, work_item: WorkItem, timeout_s: float) -> WorkResult:
        """Return the result of one item.

        Raises
        ------
        ChildTimeoutError
            It took longer; the process has been ended.
        ChildLostError
            The process has ended.
        """
        import cloudpickle

        self._send(cloudpickle.dumps(work_item))
        result: WorkResult = pickle.loads(self._answer(timeout_s))
        return result

    @property
    def lives(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, whatever it does."""
        _end(self._process)

    def _send(self, content: bytes) -> None:
        try:
            _write(self._process.stdin, content)
        except (OSError, ValueError) as error:
            self.end()
            raise ChildLostError(f"exit status {self._process.returncode}") from error

    def _answer(self, timeout_s: float) -> bytes:
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self.end()
            raise ChildTimeoutError from None
        except BaseException:  # Ctrl-C
            self.end()
            raise
        if answer is None:
            self.end()
            raise ChildLostError(f"exit status {self._process.returncode}")
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


_own = threading.local()


def child_of(context: JobContext, attempt: Attempt) -> Child:
    """Return the process of this thread for a job; a new one if it was ended, or belongs to another job."""
    known = getattr(_own, "child", None)
    if known is not None and known[0] is context and known[1].lives:
        child: Child = known[1]
        return child
    end_child()
    _own.child = context, Child(context, attempt)
    return _own.child[1]  # type: ignore[no-any-return]


def end_child() -> None:
    """End the process of this thread, if there is one."""
    known = getattr(_own, "child", None)
    if known is not None:
        known[1].end()
        _own.child = None


def _write(stream: Any, content: bytes) -> None:
    stream.write(struct.pack("<Q", len(content)) + content)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    head = stream.read(8)
    if len(head) < 8:
        return None
    size = struct.unpack("<Q", head)[0]
    content = stream.read(size)
    return content if len(content) == size else None


def _collect(stream: IO[bytes], answers: queue.Queue[bytes | None]) -> None:
    """Pass on the answers of a process, and None when it has ended."""
    try:
        while (answer := _read(stream)) is not None:
            answers.put(answer)
    except (OSError, ValueError):
        pass
    answers.put(None)


def main() -> None:
    """Work until the parent closes the pipe."""
    inbox = os.fdopen(os.dup(0), "rb")
    outbox = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a generator prints must not get among the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    from eoaug.storage.gdal import lock_gdal

    lock_gdal()
    content = _read(inbox)
    if content is None:
        return
    context, attempt = pickle.loads(content)
    # All of this is loaded before the time of an item begins.
    from eoaug.generators.interpolation.compiled import planes  # noqa: F401

    with warnings.catch_warnings(), suppress(Exception):  # the attempts report what is wrong with it
        context.generator  # noqa: B018
    _write(outbox, b"")
    while (content := _read(inbox)) is not None:
        result = attempt(pickle.loads(content), context)
        _write(outbox, pickle.dumps(result))
    os._exit(0)
