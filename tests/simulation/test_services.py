"""From the planet's services to a map: what the real clients fetch is what the planet's files contain."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter

import numpy as np
import pytest
from packages import optional

import fluxcube as fc
from fluxcube.cli import main
from fluxcube.errors import ConfigError
from fluxcube.simulation import Planet
from fluxcube.simulation.services import planet_services
from fluxcube.simulation.services.planet_modis import PlanetImages

for _name in ("requests", "cdsapi", "ee", "rasterio", "netCDF4"):
    optional(_name)
PLANET = Planet(seed=0, quick=True)
SECRET = "a-5ecret-of-the-user"


@pytest.fixture(scope="module")
def images():
    """How often each image was computed, by its kind, tower and day."""
    return Counter()


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, images):
    """Folder of everything that is fetched, and the requests that the services received, with accounts of a user."""
    from fluxcube import demo_fetch

    home = tmp_path_factory.mktemp("home")
    (home / ".cdsapirc").write_text(f"url: http://127.0.0.1:9/{SECRET}\nkey: {SECRET}\n")
    (home / ".netrc").write_text(f"machine 127.0.0.1 login {SECRET} password {SECRET}\n")
    (home / ".netrc").chmod(0o600)
    running = []
    real = PlanetImages._compute

    def counted(self, *image):
        images[image] += 1
        return real(self, *image)

    @contextlib.contextmanager
    def recorded(*arguments, **options):
        with planet_services(*arguments, **options) as services:
            running.append(services)
            yield services

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_fetch, "planet_services", recorded)
        patch.setattr(PlanetImages, "_compute", counted)
        patch.setattr("ee.deprecation._FetchDataCatalogStac", dict)
        for name in ("CDSAPI_URL", "CDSAPI_RC", "NETRC", "no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        for name in ("http_proxy", "HTTP_PROXY"):  # which would not find this computer
            patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv("HOME", str(home))
        for name in ("CDSAPI_KEY", "AMF_USER", "AMF_EMAIL", "EARTHENGINE_PROJECT", "EARTHENGINE_TOKEN"):
            patch.setenv(name, SECRET)
        folder = demo_fetch.fetch_raw(PLANET, tmp_path_factory.mktemp("fetched") / "raw")
    return folder, [request for service in running[0].all for request in service.requests]


@pytest.fixture(scope="module")
def fetched_cube(fetched):
    """The cube as the demo builds it."""
    from fluxcube import demo

    left_out = []
    cube = demo._cube(fetched[0].parent, left_out.append, None)
    assert not left_out and {"modis", "surface"} <= set(cube)
    return cube


def test_no_account_of_the_user_is_sent_or_written(fetched):
    folder, requests = fetched
    assert len(requests) > 100
    assert SECRET not in str(requests)
    assert not [request for request in requests if "authorization" in request.headers]  # of ~/.netrc, in base64
    texts = [path for path in folder.rglob("*") if path.suffix in (".jsonl", ".json", ".md", ".csv")]
    assert texts and not [path for path in texts if SECRET in path.read_text("utf-8")]


def test_every_image_is_computed_once_for_all_tiles_and_products(fetched, images):
    """Images of the region are large: two tiles and two products of a day are requested one after the other."""
    region = {day for viewed, tower, day in images if tower is None and not viewed}
    assert len(region) > 10 and len({tower for _, tower, _ in images}) == len(PLANET.towers) + 1
    assert set(images.values()) == {1}


def test_the_command_begins_with_the_fetch(fetched, monkeypatch, capsys, tmp_path):
    """From the command line to the folder of the fetch; the cube is tested below, and training takes a minute."""
    from fluxcube import demo, demo_fetch

    calls = []

    def fetch(planet, raw, **options):
        calls.append((planet, options["every"]))
        raw.symlink_to(fetched[0])

    def build(out, *rest):
        calls.append(out)
        raise ConfigError("the test ends here")

    monkeypatch.setattr(demo_fetch, "fetch_raw", fetch)
    monkeypatch.setattr(demo, "_cube", build)
    monkeypatch.setattr(sys, "argv", ["fluxcube", "demo", "--quick", "--from-services", "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit):
        main()
    assert calls == [(PLANET, demo.EVERY), tmp_path / "x"]
    assert "fetching towers, ERA5, MODIS and land cover from the planet's services" in capsys.readouterr().out


def test_the_fetched_cube_is_that_of_the_files(fetched_cube, cube_store):
    cube, expected = fetched_cube, fc.open_carbonsense(cube_store)
    assert list(cube.site.values) == list(expected.site.values)
    for name in ("predictors", "predictors_qc", "fluxes", "fluxes_qc", "fluxes_randunc", "modis", "utc_offset"):
        np.testing.assert_array_equal(cube[name].values, expected[name].values, err_msg=name)
    for name in ("igbp", "koppen", "elevation", "latitude", "longitude", "day"):
        assert (cube[name].values == expected[name].values).all(), name
    assert set(cube.network.values) == {"FLUXNET Shuttle 2026"}


def test_the_fetched_map_is_that_of_the_files(fetched, fetched_cube, planet_files, short_applicability, tmp_path):
    """A model is trained on the fetched cube, which is that of the files, and applied to both forcings."""
    run = fc.fit(
        fetched_cube, model="sw-linear", target="NEE", out=tmp_path / "run", predictors=("SW_IN",), surface=(), seed=0
    )
    cells, results = PLANET.region, []
    for raw in (fetched[0], planet_files):
        (land_cover,) = (raw / "land_cover").rglob("*.tif")
        forcing = fc.open_forcing(raw / "era5", modis=raw / "modis", land_cover=land_cover)
        forcing = forcing.sel(latitude=cells.latitude, longitude=cells.longitude, method="nearest", tolerance=1e-3)
        nee = fc.upscale(run, forcing, time=slice("2018-06-01", "2018-06-03T23")).NEE
        chips = forcing.modis.sel(day=slice("2018-05-01", "2018-07-31"))
        results.append([layer.load() for layer in (nee, chips, forcing.elevation, forcing.land_fraction)])
    for one, other in zip(*results, strict=True):
        assert np.isfinite(one).any()
        np.testing.assert_allclose(one.values, other.values, rtol=1e-5)


def test_the_services_compute_nothing_before_it_is_requested():
    """They listen on this computer only, each on a free port, and stop at the end of the block."""
    import requests

    with planet_services(PLANET) as services:
        urls = {service.url for service in services.all}
        assert len(urls) == 3 and all(url.startswith("http://127.0.0.1:") for url in urls)
        assert not services.towers.objects and not services.era5.jobs
    for url in urls:
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=1)


def test_images_are_those_of_the_files(tmp_path):
    """Of a tower: every layer of MOD09GA, which has clouds of its own; a window that is wider than the file's block."""
    import rasterio

    from fluxcube.simulation.reflectance import write_tower_reflectance
    from fluxcube.simulation.surface import tower_ground

    tower = next(tower for tower in PLANET.towers if tower.site == "CA-Zen")
    write_tower_reflectance(PLANET, [tower], tmp_path, every=40)
    ground, images = tower_ground(PLANET, tower), PlanetImages(PLANET, every=40)
    paths = sorted(tmp_path.glob("*.tif"))
    days = images.images("MOD09GA", "2018-01-01", "2019-01-01")
    assert len(paths) > 3 and {f"A2018{_number(day):03d}" for day in days} >= {
        path.name.split(".")[1] for path in paths
    }
    for day in days:
        for path in paths:
            if f"A2018{_number(day):03d}" in path.name:
                with rasterio.open(path) as file:
                    expected = file.read()
                found = [
                    images.layer(layer, day, ground.row - 2, ground.column - 2, 18, 18)
                    for layer in images.layers("MOD09GA")
                ]
                np.testing.assert_array_equal(np.stack([values for values, _ in found])[:, 2:-2, 2:-2], expected)
                assert all(missing[:2].all() and missing[:, -2:].all() for _, missing in found)
    assert images.layer("state_1km", np.datetime64("2018-12-31"), ground.row, ground.column, 2, 2)[1].all()


def _number(day: np.datetime64) -> int:
    return int((day - np.datetime64("2018-01-01")).astype(int)) + 1
