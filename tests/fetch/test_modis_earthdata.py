"""MODIS tiles from NASA Earthdata, by the real client and a local CMR, login and archive."""

from __future__ import annotations

import numpy as np
import pytest
from services import web
from services.cmr import PASSWORD, TOKEN, USER, Earthdata
from services.modis_scene import Scene
from services.secrets import assert_absent

import fluxcube.fetch as fetch
from fluxcube.cubes.chips import build_chips
from fluxcube.errors import ConfigError, CredentialsError, FetchError, LicenceError
from fluxcube.sources.modis.rasters import find_tiles, read_tile

# A site on the edge of two tiles, of which the archive has the parts around it.
SITES = {"XX-Edg": (50.0, 13.565)}
DAYS = ["2019-07-01", "2019-07-02", "2019-07-05"]
SCENE = Scene(DAYS, missing=["MCD43A2 2019-07-02"])
PARTS = [(9560, 45280, 40, 40), (9600, 45280, 40, 40)]
OPTIONS = {"service": "earthdata", "at_sites": SITES, "years": 2019, "jobs": 2}


@pytest.fixture
def server():
    with Earthdata(SCENE, PARTS) as service:
        yield service


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path_factory):
    """A home without credentials."""
    monkeypatch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / ".netrc"))
    for name in ("EARTHDATA_USERNAME", "EARTHDATA_PASSWORD", "EARTHDATA_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def netrc(monkeypatch, tmp_path_factory):
    path = tmp_path_factory.mktemp("home") / ".netrc"
    path.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(path))


def test_tiles_of_a_site_give_the_chips_of_the_scene(server, netrc, tmp_path, caplog):
    plan = fetch.modis(tmp_path, **OPTIONS, endpoint=server.url, plan=True)
    assert len(plan.missing) == 2 * 5 and plan.bytes > 10_000 and not server.asked("find_or_create|protected")
    assert not any(tmp_path.iterdir())
    paths = fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    assert len(paths) == 10 and {path.parent.name for path in paths} == {"MCD43A4", "MCD43A2"}
    chips = build_chips(tmp_path, *np.array(list(SITES.values())).T)
    np.testing.assert_array_equal(chips.values, SCENE.chips(SITES.values(), DAYS))
    for secret in (PASSWORD, TOKEN):
        assert_absent(secret, caplog, tmp_path, plan)
    before = len(server.asked("protected|find_or_create"))
    assert fetch.modis(tmp_path, **OPTIONS, endpoint=server.url) == paths
    assert len(server.asked("protected|find_or_create")) == before


def test_of_two_editions_the_latest_is_fetched(server, monkeypatch, tmp_path):
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    server.editions = ("2019194040325", "2020031123456")
    paths = fetch.modis(tmp_path, **OPTIONS, products="MCD43A4", every=181, endpoint=server.url)
    assert all("2020031123456" in path.name for path in paths)
    assert [path.name[8:16] for path in paths] == ["A2019182"] * 2  # 1 July is the 182nd day, the second of each 181


def test_every_product_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    names = ("MOD09GA", "MODOCGA", "MCD12Q1")
    with Earthdata(Scene(["2019-01-01"]), PARTS[:1], names) as server:
        fetch.modis(tmp_path, service="earthdata", tiles="h18v03", products=names, years=2019, endpoint=server.url)
    tiles = find_tiles(tmp_path)
    assert [tile.product for tile in tiles] == ["MCD12Q1", "MOD09GA", "MOD09GA_STATE", "MODOCGA"]
    for tile in tiles:
        stored = SCENE.stored(tile.product, "2019-01-01", *PARTS[0]).astype(float)
        missing = stored == {"MOD09GA_STATE": 65535, "MCD12Q1": 255}.get(tile.product, -28672)
        scale = 1e-4 if tile.product in ("MOD09GA", "MODOCGA") else 1.0
        np.testing.assert_allclose(read_tile(tile), np.where(missing, np.nan, stored * scale), rtol=1e-6)


def test_without_a_login_the_page_and_the_line_are_named(server, tmp_path):
    with pytest.raises(CredentialsError, match=r"urs\.earthdata\.nasa\.gov/users/new.*machine"):
        fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    assert not list(tmp_path.rglob("*.hdf"))


def test_a_wrong_password_and_an_old_token_are_named(server, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("EARTHDATA_USERNAME", USER)
    monkeypatch.setenv("EARTHDATA_PASSWORD", "a-wrong-password")
    with pytest.raises(CredentialsError, match=r"does not accept") as error:
        fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    monkeypatch.setenv("EARTHDATA_TOKEN", "an-expired-token")
    monkeypatch.delenv("EARTHDATA_PASSWORD")
    with pytest.raises(CredentialsError, match=r"login.*netrc") as other:
        fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    for secret in ("a-wrong-password", "an-expired-token"):
        assert_absent(secret, caplog, tmp_path, error.value, other.value)
    assert not list(tmp_path.rglob("*.hdf"))


def test_a_licence_that_is_not_accepted_is_named_with_its_page(server, netrc, tmp_path):
    server.eula = "https://urs.earthdata.nasa.gov/accept_eula?eula_id=lp_daac"
    with pytest.raises(LicenceError, match=r"urs\.earthdata\.nasa\.gov/accept_eula\?eula_id=lp_daac"):
        fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
    server.eula = "https://elsewhere.org/phishing"
    with pytest.raises(LicenceError, match=r"urs\.earthdata\.nasa\.gov/profile"):
        fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)


def test_faults_of_the_archive(server, netrc, tmp_path):
    server.fail("protected", web.Fault(truncate=700), web.status(503), web.page("Maintenance"))
    with pytest.raises(FetchError, match="1 of 10 files"):
        fetch.modis(tmp_path, **(OPTIONS | {"jobs": 1}), endpoint=server.url)
    assert len(fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)) == 10
    assert len(find_tiles(tmp_path)) == 10
    server.fail("granules", web.status(500, {"errors": ["An Internal Error has occurred."]}))
    with pytest.raises(FetchError, match="search in CMR failed"):
        fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)


def test_nothing_found_and_options_of_others(server, tmp_path):
    with pytest.raises(FetchError, match="no tile"):
        fetch.modis(tmp_path, **(OPTIONS | {"years": 2018}), endpoint=server.url)
    with pytest.raises(ConfigError, match="project"):
        fetch.modis(tmp_path, **OPTIONS, project="p", plan=True)


def test_a_login_is_sent_to_nasa_only(server, netrc, tmp_path, monkeypatch):
    granule = server.granule
    with Earthdata(SCENE, PARTS) as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")

        def moved(name):
            entry = granule(name)
            entry["umm"]["RelatedUrls"][0]["URL"] = f"{elsewhere}/protected/{name}"
            return entry

        monkeypatch.setattr(server, "granule", moved)
        with pytest.raises(FetchError, match="no server of NASA"):
            fetch.modis(tmp_path, **OPTIONS, endpoint=server.url)
        assert not other.requests
