"""Memory that tasks free stays in the worker: settings of malloc in the processes that compute regions."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from processes import environment

from fluxcube.maps import regions, teams, workers
from fluxcube.maps.allocation import allocator_environment, keep_freed_memory

DASK = {"MALLOC_TRIM_THRESHOLD_": "65536"}  # what Dask's nanny sets before it starts a worker
OWN = [
    {"MALLOC_TRIM_THRESHOLD_": "131072"},
    {"MALLOC_MMAP_THRESHOLD_": "131072"},
    {"MALLOC_MMAP_MAX_": "0"},
    {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.mmap_threshold=131072"},
]
#: Allocates and frees 1 MiB a hundred times, after the setting of the first task, and prints the page faults.
CHURN = """
import numpy, resource, sys
from fluxcube.maps.regions import prepare_process
if sys.argv[1] == "task":
    prepare_process()
def faults():
    for _ in range(100):
        numpy.ones(2**17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
before = faults()
print(faults() - before)
"""


def glibc() -> bool:
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):
        return False


needs_glibc = pytest.mark.skipif(not glibc(), reason="the C library is not glibc")


def page_faults(task: bool, **variables: str) -> int:
    command = [sys.executable, "-c", CHURN, "task" if task else "nothing"]
    return int(subprocess.run(command, env=environment(**variables), check=True, capture_output=True).stdout)


@needs_glibc
def test_arrays_of_a_task_are_not_mapped_anew_in_processes_of_ours():
    ours = {name: value for name, value in allocator_environment(DASK).items() if name.startswith("MALLOC_")}
    assert 10 * page_faults(False, **ours) < page_faults(False, **DASK)  # a fault for each page of each array


@needs_glibc
def test_the_first_task_undoes_the_setting_of_somebody_elses_nanny():
    assert 10 * page_faults(True, **DASK) < page_faults(False, **DASK)


@pytest.mark.parametrize("own", OWN)
def test_settings_of_the_user_stay(own):
    assert allocator_environment(own) == own
    assert not keep_freed_memory(own)
    assert not keep_freed_memory(DASK | own)


@pytest.mark.parametrize("other", [{}, {"MALLOC_ARENA_MAX": "2"}, {"MALLOC_PERTURB_": "1"}, DASK])
def test_other_settings_are_completed(other):
    found = allocator_environment(other)
    assert found.items() >= {k: v for k, v in other.items() if other is not DASK}.items()
    assert int(found["MALLOC_TRIM_THRESHOLD_"]) > 2**26
    assert int(found["MALLOC_MMAP_THRESHOLD_"]) == 2**25  # glibc ignores a larger value


def test_a_process_without_dasks_setting_is_left_alone():
    assert not keep_freed_memory({})


class NoLibrary:
    """The C library of macOS or musl."""


@pytest.mark.parametrize("error", [None, TypeError, OSError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def load(name):
        if error is not None:
            raise error("no library")
        return NoLibrary()

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert not keep_freed_memory(DASK)


def test_dask_workers_of_this_machine_receive_the_settings(monkeypatch):
    pytest.importorskip("distributed")
    seen = {}

    class Started(Exception):
        pass

    def start(command, env, **options):
        seen.update(env)
        raise Started

    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL", "3s")
    monkeypatch.setattr(teams.subprocess, "Popen", start)
    with pytest.raises(Started), workers.workers_for("processes", 1, 1, 0, None):
        pass
    assert seen["MALLOC_TRIM_THRESHOLD_"] != DASK["MALLOC_TRIM_THRESHOLD_"]
    assert seen["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] == "False"  # a setting that Dask knows, as the others
    assert seen["DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL"] == "3s"  # the user's


def test_settings_in_the_users_files_of_dask_stay():
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    every = teams._worker_environment({})
    assert len(every) == len(teams._QUIET) + 2  # each is a setting that this version of Dask has
    assert every["DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL"] == "500ms"
    name, trim = "distributed.admin.tick.interval", "distributed.nanny.pre-spawn-environ"
    with dask.config.set({name: "5s"}):
        assert "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL" not in teams._worker_environment({})
    for value in ({"MALLOC_TRIM_THRESHOLD_": 100_000}, {"MALLOC_TRIM_THRESHOLD_": None}):
        with dask.config.set({trim: value}):
            assert "MALLOC_TRIM_THRESHOLD_" not in teams._worker_environment({})


def test_a_process_is_prepared_once(monkeypatch):
    calls = []
    monkeypatch.setattr(regions, "keep_freed_memory", lambda: calls.append(1))
    regions.prepare_process.cache_clear()
    regions.prepare_process(), regions.prepare_process()
    regions.prepare_process.cache_clear()
    assert calls == [1]
