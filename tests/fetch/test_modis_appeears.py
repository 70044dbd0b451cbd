"""MODIS from AppEEARS: tasks that wait, are found again, and whose files are read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from services import web
from services.appeears import PASSWORD, TOKEN, USER, AppEEARS
from services.modis_scene import Scene
from services.secrets import assert_absent

import fluxcube.fetch as fetch
from fluxcube.cubes.chips import build_chips
from fluxcube.errors import ConfigError, CredentialsError, FetchError, LicenceError
from fluxcube.sources.modis.rasters import find_tiles, read_tile
from fluxcube.sources.modis.surface import read_surface

SITES = {"XX-Edg": (50.0, 13.565), "XX-Far": (65.0, 150.0)}
DAYS = ["2019-07-01", "2019-07-04"]
SCENE = Scene(DAYS)
OPTIONS = {"service": "appeears", "at_sites": SITES, "years": 2019}
SMALL = OPTIONS | {"at_sites": {"XX-Edg": SITES["XX-Edg"]}, "products": "MCD43A2"}  # four files


@pytest.fixture
def server(monkeypatch):
    waits: list[float] = []
    for module in ("appeears", "appeears_client"):
        monkeypatch.setattr(f"fluxcube.fetch.{module}.pause", waits.append)
    monkeypatch.setenv("EARTHDATA_USERNAME", USER)
    monkeypatch.setenv("EARTHDATA_PASSWORD", PASSWORD)
    with AppEEARS(SCENE) as service:
        service.waits = waits
        yield service


def test_areas_around_sites_give_the_chips_of_the_scene(server, tmp_path, caplog):
    plan = fetch.modis(tmp_path, **OPTIONS, endpoint=server.url, plan=True)
    assert plan.cost.startswith("1 tasks to submit") and not server.requests
    paths = fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    assert len(paths) == 2 * 2 * 9 and all(path.suffix == ".tif" for path in paths)
    chips = build_chips(tmp_path, *np.array(list(SITES.values())).T)
    np.testing.assert_array_equal(chips.values, SCENE.chips(SITES.values(), DAYS))
    for secret in (PASSWORD, f"{TOKEN}1"):
        assert_absent(secret, caplog, tmp_path, plan)
    before = len(server.requests)
    assert fetch.modis(tmp_path, **OPTIONS, endpoint=server.url) == paths
    again = fetch.modis(tmp_path, **OPTIONS, endpoint=server.url, plan=True)
    assert not again.missing and len(server.requests) == before
    assert (tmp_path / "LICENCE.md").exists()


def test_every_product_is_read(server, tmp_path):
    options = OPTIONS | {"at_sites": {"XX-Edg": SITES["XX-Edg"]}}
    fetch.modis(tmp_path, **options, products=["MOD09GA", "MODOCGA", "MCD12Q1"], endpoint=server.url)
    tiles = find_tiles(tmp_path)
    assert {tile.product for tile in tiles} == {"MOD09GA", "MOD09GA_STATE", "MODOCGA", "MCD12Q1"}
    for tile in tiles:
        rows, cols = (tile.row + 2, tile.row + 10), (tile.col + 2, tile.col + 10)
        stored = SCENE.stored(tile.product, tile.day, rows[0], cols[0], 8, 8).astype(float)
        missing = stored == {"MOD09GA_STATE": 65535, "MCD12Q1": 255}.get(tile.product, -28672)
        scale = 1e-4 if tile.product in ("MOD09GA", "MODOCGA") else 1.0
        np.testing.assert_allclose(read_tile(tile, rows, cols), np.where(missing, np.nan, stored * scale), rtol=1e-6)


def test_a_series_of_the_pixel_is_read_as_surface_reflectance(server, tmp_path):
    paths = fetch.modis(tmp_path, **OPTIONS, products="MOD09GA", series=True, endpoint=server.url)
    assert [path.name.endswith("MOD09GA-061-results.csv") for path in paths] == [True]
    surface = read_surface(tmp_path)
    assert sorted(map(str, surface["site"].values)) == sorted(SITES)
    body = server.asked("/task", "POST")[0].json()
    assert {entry["layer"] for entry in body["params"]["layers"]} >= {"state_1km_1", "sur_refl_b01_1"}
    assert body["params"]["dates"] == [{"startDate": "01-01-2019", "endDate": "12-31-2019"}]


def test_a_stopped_wait_continues_with_the_same_task(server, tmp_path):
    server.polls = 10**9
    with pytest.raises(FetchError, match=r"task-1 is still \w+ after 0.01 hours; run the same command later"):
        fetch.modis(tmp_path, **SMALL, wait_hours=0.01, endpoint=server.url)
    server.polls = 0
    fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    assert len(server.tasks) == 1 and len(server.asked("/task", "POST")) == 1


def test_a_token_that_expires_is_renewed(server, tmp_path):
    client_logins = len(server.asked("/login"))
    server.fail("/task/", web.status(403, {"message": "The token has expired."}))
    server.fail("/bundle/task-1/", web.status(401, {"message": "The token has expired."}))
    assert len(fetch.modis(tmp_path, **SMALL, endpoint=server.url)) == 4
    assert len(server.asked("/login")) >= client_logins + 3


def test_a_failed_and_a_deleted_task_are_submitted_again(server, tmp_path):
    server.outcome = "error"
    with pytest.raises(FetchError, match=r"ended with error \(no data\)"):
        fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    server.outcome, server.polls = "done", 10**9
    with pytest.raises(FetchError, match="task-2 is still"):
        fetch.modis(tmp_path, **SMALL, wait_hours=0.01, endpoint=server.url)
    del server.tasks["task-2"]
    server.tasks["other"] = server.tasks["task-1"]
    server.polls = 0
    fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    assert "task-3" in server.tasks


def test_files_deleted_by_the_service_are_made_again(server, tmp_path):
    paths = fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    paths[0].unlink()
    server.bundles.clear()
    assert len(fetch.modis(tmp_path, **SMALL, endpoint=server.url)) == 4
    assert len(server.tasks) == 2 and paths[0].exists()


def test_logins_and_licences_are_named(server, tmp_path, monkeypatch, caplog, tmp_path_factory):
    server.eula = True
    with pytest.raises(LicenceError, match=r"urs\.earthdata\.nasa\.gov/profile"):
        fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    monkeypatch.setenv("EARTHDATA_PASSWORD", "a-wrong-password")
    with pytest.raises(CredentialsError, match=r"does not accept.*users/new") as wrong:
        fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    monkeypatch.delenv("EARTHDATA_PASSWORD")
    netrc = tmp_path_factory.mktemp("home") / ".netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(CredentialsError, match="no login"):
        fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    netrc.write_text("machine 127.0.0.1 login a b-secret-word\n")
    with pytest.raises(CredentialsError, match=r"line [12] of") as broken:
        fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    assert_absent("a-wrong-password", caplog, tmp_path, wrong.value)
    assert_absent("b-secret-word", caplog, tmp_path, broken.value)
    server.eula = False
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    assert len(fetch.modis(tmp_path, **SMALL, endpoint=server.url)) == 4


@pytest.mark.parametrize(
    ("path", "fault", "text"),
    [
        ("/task", web.page("Maintenance"), "expected JSON"),
        ("/bundle/task-1$", web.Fault(web.Answer({"files": [{"file_id": "../x", "file_name": "a.tif"}]})), "an id"),
        ("/bundle/task-1$", web.Fault(web.Answer({"files": [{"file_id": "x", "file_name": ".tif"}]})), "file name"),
        ("/bundle/task-1$", web.Fault(web.Answer({"files": []})), "no file of the requested kind"),
        ("/login", web.Fault(web.Answer({"other": 1})), "expected a token"),
        ("/storage/", web.Fault(truncate=20), "the connection ended"),
    ],
)
def test_faults_are_named(server, tmp_path, path, fault, text):
    server.fail(path, fault, times=200)
    with pytest.raises(FetchError, match=text):
        fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    assert not [p for p in tmp_path.rglob("*.tif") if ".fetching" not in p.parts and path != "/storage/"]


def test_faults_that_pass_do_not_matter(server, tmp_path):
    server.fail("/task/", web.status(429, "slow down", Retry_After="7"), web.status(503), web.Fault(drop=True))
    server.fail("/storage/", web.Fault(truncate=50), web.status(500))
    assert len(fetch.modis(tmp_path, **SMALL, endpoint=server.url)) == 4
    assert 7.0 in server.waits


def test_the_list_of_files_has_no_credentials_and_other_options_are_refused(server, tmp_path):
    fetch.modis(tmp_path, **SMALL, endpoint=server.url)
    (bundle,) = tmp_path.glob("*/bundle.json")
    assert set(json.loads(bundle.read_text())) == {"task_id", "files"}
    with pytest.raises(ConfigError, match="every"):
        fetch.modis(tmp_path, **SMALL, every=8, plan=True)
