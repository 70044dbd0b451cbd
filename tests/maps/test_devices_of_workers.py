"""The devices of workers: one process per card, and what is refused before the first task."""

from __future__ import annotations

import pytest

from fluxcube.devices import VISIBLE
from fluxcube.errors import ConfigError
from fluxcube.maps import teams, workers
from fluxcube.maps.teams import Team, make_teams, start_team, text_of


def test_regions_are_divided_among_the_cards():
    assert make_teams(4, ()) == [Team(4, 1)]
    assert make_teams(1, ("0", "1")) == [Team(1, 1, "0")]  # no more processes than regions
    assert [team.threads for team in make_teams(7, ("0", "1", "2"))] == [3, 2, 2]
    assert text_of(make_teams(4, ("0", "3")), 2**30) == (
        "one process for each of 2 GPUs, 4 threads in all, and 1.0 GiB of memory each"
    )


def test_a_process_sees_its_card_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(teams.subprocess, "Popen", lambda command, **options: seen.append((command, options["env"])))
    monkeypatch.setenv(VISIBLE, "2,3")
    start_team(Team(1, 4, "3"), "tcp://127.0.0.1:1", 2**30, 60.0)
    start_team(Team(2, 1), "tcp://127.0.0.1:1", 2**30, 60.0)
    (one, on_card), (other, elsewhere) = seen
    assert on_card[VISIBLE] == "3" and one[one.index("--nthreads") + 1] == "4" and "--nworkers" in one
    assert elsewhere[VISIBLE] == "2,3" and other[other.index("--nworkers") + 1] == "2"


class FakeCluster:
    """A cluster whose workers answer at once."""

    def __init__(self, names):
        self.client, self.names, self.devices = self, names, ()

    def run(self, function, *arguments, on_error):
        """Return what each worker answers: nothing is wrong with it, and the name of its device is the last one."""
        from fluxcube import __version__

        fine = (__version__, True, 0, *[None] * (len(arguments) - 2))
        answers = [name if isinstance(name, Exception) else (*fine, name) for name in self.names]
        return {f"tcp://w{i}": answer for i, answer in enumerate(answers)}


@pytest.fixture
def check(monkeypatch, tmp_path):
    """A function that checks workers with devices, and returns their names."""
    monkeypatch.setattr(workers, "_wait_for_worker", lambda cluster, patience: None)

    def answer(device, *names):
        cluster = FakeCluster(names)
        workers._check_cluster(cluster, 1.0, tmp_path, 0, device)
        return cluster.devices

    return answer


def test_workers_with_and_without_cards_are_refused_unless_that_is_allowed(check):
    with pytest.raises(ConfigError, match=r"1 workers have a GPU and 2 do not \(tcp://w0, tcp://w2\).*'cuda,cpu'"):
        check("auto", "CPU", "NVIDIA H200", "CPU")
    assert check("cuda,cpu", "CPU", "NVIDIA H200", "CPU") == ("CPU", "NVIDIA H200")
    assert check("auto", "CPU", "CPU") == ("CPU",)
    assert check("auto", "NVIDIA H200", "NVIDIA H200") == ("NVIDIA H200",)


def test_a_worker_without_the_requested_card_is_named(check):
    with pytest.raises(ConfigError, match="worker tcp://w1: device is 'cuda', but this torch"):
        check("cuda", "NVIDIA H200", ConfigError("device is 'cuda', but this torch is built for CPUs"))


def test_a_worker_that_died_is_not_counted(check):
    assert check("auto", OSError("lost"), "CPU") == ("CPU",)


def test_processes_are_started_for_the_cards_of_this_machine(monkeypatch, tmp_path):
    started = []

    class Stop(Exception):
        pass

    def processes(count, cards=()):
        started.append((count, cards))
        raise Stop

    monkeypatch.setattr(workers, "_processes", processes)
    monkeypatch.setattr(workers, "card_ids", lambda device: ("4", "5") if device != "cpu" else ())
    for device in ("auto", "cpu"):
        with pytest.raises(Stop), workers.workers_for("processes", 3, 1, 0, tmp_path, device=device):
            pass
    assert started == [(3, ("4", "5")), (3, ())]
