"""What all tests share: hypothesis profiles, sweeps in short and full form, and the folder of project data."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from hypothesis import HealthCheck, settings

from tests.forks import Forks, shared
from tests.order import ByFile, long_ones_first

# No test asks a model hub, but those that bring one of their own.
os.environ["HF_HUB_OFFLINE"] = "1"
# The runner has one process per core: threads of a library would wait for each other. Some tests start their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

# `ci` is the one that `make test` runs: the same examples every time. `default` looks further.
settings.register_profile("ci", max_examples=25, deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.register_profile("default", max_examples=200, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _values(item: pytest.Function, axes: tuple[str, ...]) -> set[tuple[str, object]]:
    """Return the (parameter, value) pairs of a case of a sweep, of the named parameters or of all."""
    params = item.callspec.params
    if missing := set(axes) - params.keys():
        raise pytest.UsageError(f"{item.nodeid}: sweep names {sorted(missing)}, which it has not")
    return {(name, repr(params[name])) for name in axes or params}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `slow` all cases of a `sweep` but a subset in which each value of each parameter occurs."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = long_ones_first(items)
    sweeps: dict[tuple[object, ...], list[pytest.Function]] = {}
    for item in items:
        marker = item.get_closest_marker("sweep")
        others = any(item.get_closest_marker(name) for name in ("slow", "long", "services"))
        if marker and isinstance(item, pytest.Function) and not others:
            # The nodes of one test share its path; a parametrized fixture may put others between them.
            sweeps.setdefault((item.path, item.cls, item.originalname, marker.args), []).append(item)
    for (*_, axes), cases in sweeps.items():
        assert isinstance(axes, tuple)
        kept: set[pytest.Function] = set()
        seen: Counter[tuple[str, object]] = Counter()
        missing = {case: _values(case, axes) for case in cases}
        while any(missing.values()):
            # The case with most that is new; of equal ones the one whose values have occurred least, then the first.
            best = max(
                cases, key=lambda case: (len(missing[case]), -sum(seen[v] for v in _values(case, axes)))
            )
            kept.add(best)
            covered = _values(best, axes)
            seen.update(covered)
            for case in cases:
                missing[case] -= covered
        for case in cases:
            if case not in kept:
                case.add_marker(pytest.mark.slow)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to the processes of the runner, in the order of `tests.order`."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is imported by now, a million objects, out of every later search for garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


# A runner builds all commands for every call of one, a tenth of a second each time.
typer.testing._get_command = cache(typer.testing._get_command)


@pytest.fixture(scope="session", autouse=True)
def _loops_are_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the processes of the runner wait for each other's compiled loops, instead of each compiling all of them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    from filelock import FileLock
    from numba.core.dispatcher import Dispatcher

    shared = tmp_path_factory.getbasetemp().parent
    locks: dict[str, FileLock] = {}

    def alone(compile_loop: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(compile_loop)
        def run(self: Any, signature: Any) -> Any:
            module = self.py_func.__module__
            if not module.startswith("eoaug."):
                return compile_loop(self, signature)
            # Who waited finds the loop in numba's cache. One that is compiled within another takes the lock again.
            lock = locks.setdefault(module, FileLock(shared / f"{module}.lock", thread_local=False))
            with lock:
                return compile_loop(self, signature)

        return run

    Dispatcher.compile = alone(Dispatcher.compile)


@pytest.fixture(scope="session")
def forks() -> Forks:
    """Give what runs code in other processes without their start."""
    return shared()


@pytest.fixture(scope="session")
def quick_workers() -> Iterator[None]:
    """Fork the processes of dask from one that has imported everything: most of the time of a process is its start."""
    import dask
    import distributed

    import tests.jobs.warm  # noqa: F401  (what is compiled here is only loaded there)

    how = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.worker.profile.enabled": False,  # it samples every thread, a hundred times a second
        "multiprocessing.context": "forkserver",
    }
    with dask.config.set(how):
        served = distributed.utils.get_mp_context()
        served.set_forkserver_preload(["tests.jobs.warm"])
        yield


@pytest.fixture(scope="session")
def eoaug_data() -> Path:
    """The project's data: validation cubes and STAC schemas. Not part of the repository."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("EOAUG_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no project data at {folder}; set EOAUG_DATA to the folder")
    return folder
