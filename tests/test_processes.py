"""Helper processes never import files of the current folder, as a user may have unpacked downloads there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packages import optional

from fluxcube.processes import child_command, child_environment, safe_children

NAMES = ("json", "numpy", "select", "random", "struct", "socket", "signal", "logging", "distributed", "pyhdf", "click")


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Make a folder with modules that leave a file when they are imported, and go there."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\n")
    monkeypatch.chdir(folder)
    yield folder
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()


def test_what_the_current_folder_contains_is_imported_without_these_precautions(downloads, tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "json.tool", "--help"], capture_output=True, check=False)
    assert (tmp_path / "imported").read_text() == "json "
    (tmp_path / "imported").unlink()
    for path in ("", ".", f"{os.pathsep}/nowhere"):
        monkeypatch.setenv("PYTHONPATH", path)
        subprocess.run(
            [*child_command("json.tool"), "--help"], env=child_environment(), stdout=subprocess.DEVNULL, check=True
        )


def test_hdf4_is_read_without_them(downloads, tmp_path):
    optional("pyhdf")
    import numpy as np
    from modis_files import nadir, name_of, tile_of, write_hdf

    from fluxcube.sources.modis import hdf_process
    from fluxcube.sources.modis.rasters import find_tiles

    if hdf_process.process.worker is not None:
        hdf_process.process.worker.stop()
    path = tmp_path / name_of("MCD43A4", "2019-07-04", tile_of((9700, 44000)))
    write_hdf(path, [nadir(np.full((7, 4, 4), 1000), (9700, 44000))])
    assert find_tiles(path)[0].height == 4


def test_workers_of_maps_start_without_them(downloads):
    pytest.importorskip("distributed")
    from fluxcube.maps.workers import _processes

    with _processes(1) as (client, *_):
        client.wait_for_workers(1, timeout=60)
        path, flag = next(iter(client.run(_path).values()))
    assert flag and str(downloads) not in path and "" not in path


def _path() -> tuple[list[str], bool]:
    return sys.path, bool(sys.flags.safe_path)


def test_processes_of_a_pool_start_without_them(downloads, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os\n"
        "from fluxcube.processes import safe_children\n"
        "if __name__ == '__main__':\n"
        "    with safe_children(), multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        assert pool.apply(os.getpid) != os.getpid()\n"
        "    assert 'PYTHONSAFEPATH' not in os.environ\n"
    )
    subprocess.run([sys.executable, str(script)], check=True)


def test_the_path_of_this_process_is_passed_on_without_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "/asked", "relative"]))
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(tmp_path / "link"), "/scripts", *sys.path])
    path = child_environment()["PYTHONPATH"].split(os.pathsep)
    assert path[:2] == ["/asked", "/scripts"] and not {"", ".", "relative", str(tmp_path)} & set(path)
    assert child_command("json.tool")[1:] == ["-P", "-m", "fluxcube.processes", "json.tool"]
    with safe_children():
        assert os.environ["PYTHONSAFEPATH"] == "1"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child_environment()["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)


def test_no_module_starts_a_process_in_another_way():
    import fluxcube

    for file in Path(fluxcube.__file__).parent.rglob("*.py"):
        text = file.read_text("utf-8")
        if file.name != "processes.py":
            assert "sys.executable" not in text, file
        if "subprocess.Popen(" in text or "get_context(" in text:
            assert "child_environment()" in text or "safe_children()" in text, file
