"""Processes for tests, forked from one that has imported everything: Python with GDAL takes seconds to start."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import psutil

__all__ = ["ROOT", "Fork", "Forks", "shared"]

ROOT = Path(__file__).parents[1]

_SERVER = """
import json, os, sys, traceback
import tests.jobs.warm

def child(told):
    os.setsid()
    for number, (name, how) in enumerate((("/dev/null", os.O_RDONLY), (told["out"], os.O_WRONLY), (told["err"], os.O_WRONLY))):
        os.dup2(os.open(name, how | (os.O_CREAT if number else 0), 0o600), number)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = ["-c", *told["arguments"]]
    exec(compile(told["code"], "<fork>", "exec"), {"__name__": "__main__"})

print("ready", flush=True)
for line in sys.stdin:
    told = json.loads(line)
    if "wait" in told:
        print(os.waitstatus_to_exitcode(os.waitpid(told["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child(told)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
"""


class Fork(NamedTuple):
    """A process, and the files of what it prints."""

    forks: Forks
    pid: int
    out: Path
    err: Path

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative if it was killed."""
        return self.forks.ask({"wait": self.pid})

    def kill(self) -> int:
        """Kill it and return its exit code."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return psutil.pid_exists(self.pid) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE

    def until_it_prints(self) -> None:
        """Wait for its first output, or its end."""
        while self.lives and not (self.out.exists() and self.out.stat().st_size):
            time.sleep(0.002)


class Forks:
    """Starts processes that run code as ``python -c`` does.

    Parameters
    ----------
    room
        Folder for what they print.
    """

    def __init__(self, room: Path) -> None:
        import_module("tests.jobs.warm")  # so that the loops are compiled here, once, and only loaded there
        self._room, self._count = room, 0
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVER],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, told: dict[str, Any]) -> int:
        """Send a request and return the number that is the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, code: str, *arguments: object, cwd: Path = ROOT) -> Fork:
        """Start a process with ``sys.argv[1:]`` as given."""
        self._count += 1
        out, err = self._room / f"{self._count}.out", self._room / f"{self._count}.err"
        told = {
            "code": code,
            "arguments": [*map(str, arguments)],
            "cwd": str(cwd),
            "environment": {**os.environ},
        }
        return Fork(self, self.ask({**told, "out": str(out), "err": str(err)}), out, err)

    def run(self, code: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run code in a process of its own to its end."""
        fork = self.start(code, *arguments, cwd=cwd)
        status = fork.wait()
        return subprocess.CompletedProcess(arguments, status, fork.out.read_text(), fork.err.read_text())

    def end(self) -> None:
        """End the process that is forked."""
        self._process.kill()
        self._process.wait()


@cache
def shared() -> Forks:
    """Return that of this process of the runner."""
    room = tempfile.TemporaryDirectory()
    found = Forks(Path(room.name))
    atexit.register(room.cleanup)
    atexit.register(found.end)
    return found
