"""Recipes fetch from local servers with the clients of the real services, as from a mirror: to cubes and maps."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from packages import optional
from test_recipe_samples import run

import fluxcube as fc
from fluxcube import recipes
from fluxcube.cli import main
from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.simulation import Planet
from fluxcube.simulation.services import planet_services
from fluxcube.stores.reading import store_attrs

for _name in ("requests", "cdsapi", "ee", "rasterio", "netCDF4"):
    optional(_name)
pytestmark = pytest.mark.usefixtures("short_applicability")

PLANET = Planet(seed=0, quick=True)
#: Four cells of the planet's region.
BOX = [float(PLANET.region.longitude[2]), float(PLANET.region.latitude[2])]
BOX += [float(PLANET.region.longitude[3]), float(PLANET.region.latitude[1])]
#: Requests that send data; others list what there is.
DATA = {"towers": "/objects/", "era5": "/execution|/files/", "modis": "computePixels"}


@pytest.fixture(scope="module")
def services():
    with planet_services(PLANET, every=8) as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ee.deprecation._FetchDataCatalogStac", dict)
        for name in ("http_proxy", "HTTP_PROXY", "EARTHENGINE_PROJECT", "CDSAPI_URL", "CDSAPI_KEY"):
            patch.delenv(name, raising=False)
        yield running


@pytest.fixture(scope="module")
def mirrors(services):
    """Options of a recipe that uses a mirror, as on its command line."""
    addresses = {"towers": services.towers.url, "era5": f"{services.era5.url}/api", "modis": services.modis.url}
    return ["--set", f"endpoints={addresses}", "--set", "project=p"]


def sent(services) -> dict[str, int]:
    """Return the number of requests of data that each service received."""
    return {name: len(getattr(services, name).asked(pattern)) for name, pattern in DATA.items()}


@pytest.fixture(scope="module")
def towers(services, mirrors, tmp_path_factory):
    """Output of the recipe of the cube, for two classes."""
    out = tmp_path_factory.mktemp("carbonsense")
    options = ["--set", "source=icos", "--set", "igbp=[DBF, GRA]", "--set", "every=8"]
    return out, options, run("carbonsense", out, *options, *mirrors)


@pytest.fixture(scope="module")
def trained(towers, tmp_path_factory):
    """A tiny model, trained on the fetched cube with its chips, which its maps need as well."""
    out = tmp_path_factory.mktemp("run")
    options = {"predictors": ("TA", "SW_IN", "VPD"), "seed": 0}
    return fc.fit(towers[2], model="sw-linear", target="NEE", out=out / "run", **options).path


@pytest.fixture(scope="module")
def area(trained, mirrors):
    """Options of a recipe that maps four cells."""
    return ["--set", f"region={BOX}", "--set", "years=[2018]", "--set", f"model={trained}", *mirrors]


@pytest.fixture(scope="module")
def forcing(services, area, tmp_path_factory):
    """Output folder of the recipe of the forcing, which was run twice."""
    out = tmp_path_factory.mktemp("forcing")
    run("era5_forcing", out, *area)
    before = sent(services)
    assert before["era5"] > 20
    assert run("era5_forcing", out, *area).sizes["latitude"] == 2
    assert sent(services) == before
    return out


def test_the_cube_of_fetched_towers_has_chips_and_is_not_fetched_again(towers, services, mirrors):
    out, options, cube = towers
    classes = {tower.site: tower.igbp for tower in PLANET.towers}
    expected = {site for site, igbp in classes.items() if igbp in ("DBF", "GRA")}
    assert set(cube.site.values) == expected and {classes[site] for site in expected} == {"DBF", "GRA"}
    assert "modis" in cube and bool(cube.modis.notnull().any())
    before = sent(services)
    assert before["towers"] >= len(expected) and before["modis"] >= len(expected)
    assert run("carbonsense", out, *options, *mirrors).identical(cube)
    assert sent(services) == before


def test_chips_are_fetched_for_a_folder_of_towers(towers, services, mirrors, tmp_path):
    site = str(towers[2].site.values[0])
    options = ["--set", f"towers={towers[0] / 'towers'}", "--set", f"sites=[{site}]", "--set", "every=8"]
    cube = run("tower_chips", tmp_path, *options, *mirrors)
    expected = towers[2].sel(site=[site]).modis
    np.testing.assert_array_equal(cube.modis.dropna("day", how="all"), expected.dropna("day", how="all"))
    before = sent(services)
    assert run("tower_chips", tmp_path, *options, *mirrors).identical(cube) and sent(services) == before


def test_the_fetched_forcing_is_the_weather_of_the_planet(forcing):
    ds = fc.open_forcing(forcing / "forcing.zarr")
    assert store_attrs(forcing / "forcing.zarr")["complete"] == 1
    assert {"TA", "SW_IN", "VPD"} <= set(ds["variable"].values)
    time = np.arange("2018-06-10", "2018-06-12", dtype="datetime64[h]")
    lat, lon = (np.ravel(x) for x in np.meshgrid(ds.latitude, ds.longitude, indexing="ij"))
    halves = np.arange("2018-06-10", "2018-06-12", np.timedelta64(30, "m"), dtype="datetime64[m]")
    true = PLANET.weather(halves, lat, lon, step_hours=0.5)
    true = {name: true[name].reshape(4, -1, 2).mean(-1) for name in ("SW_IN", "TA")}
    for name, tolerance in (("SW_IN", 0.1), ("TA", 1.5)):  # ERA5 has the temperature at the ends of the hours
        values = ds.predictors.sel(variable=name, time=time).transpose("latitude", "longitude", "time").values
        np.testing.assert_allclose(values.reshape(4, -1), true[name], atol=tolerance)


def test_maps_of_a_month_follow_from_what_was_fetched(forcing, services, area):
    """The recipe continues in the folder of the forcing, and fetches nothing that is there."""
    before = sent(services)
    options = [*area, "--set", "period=['2018-06-01', '2018-06-30']"]
    totals = run("regional_map", forcing, *options)
    assert sent(services) == before
    maps = fc.open_maps(forcing / "maps.zarr")
    assert maps.sizes["time"] == 720 and maps.sizes["latitude"] == maps.sizes["longitude"] == 2
    assert {path.name for path in forcing.iterdir()} >= {"era5", "land_cover", "modis"}
    assert bool(np.isfinite(maps.NEE).all()) and bool((maps.NEE.std("time") > 0.5).all())
    assert np.isfinite(totals.NEE).any() and (forcing / "NEE.png").is_file()
    assert run("regional_map", forcing, *options).identical(totals) and sent(services) == before


def test_the_sample_has_the_images_that_a_model_needs(trained, planet_files, tmp_path):
    """It failed for a model with chips, and so did the plan of global maps, which measures it."""
    (tmp_path / "raw").symlink_to(planet_files)
    options = ["--set", f"model={trained}", "--set", "period=['2018-06-01', '2018-06-02']"]
    assert np.isfinite(run("regional_map", tmp_path, "--sample", *options).NEE).any()


def test_the_commands_fetch_from_a_mirror(services, tmp_path, monkeypatch, capsys):
    """A second command fetches nothing."""
    box = ",".join(map(str, BOX))
    era5 = ["--endpoint", f"{services.era5.url}/api"]
    commands = (
        ["towers", tmp_path / "towers", "--source", "icos", "--igbp", "GRA", "--endpoint", services.towers.url],
        ["era5", "--bbox", box, "--years", "2018", "--variables", "P", "--out", tmp_path / "era5", *era5],
    )
    for words in commands:
        for _ in range(2):
            before = sent(services)
            monkeypatch.setattr("sys.argv", ["fluxcube", "fetch", *map(str, words)])
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code
        assert sent(services) == before
    assert len(re.findall(r"\d+ files", capsys.readouterr().out)) == 4
    assert list((tmp_path / "towers").glob("*.zip")) and list((tmp_path / "era5").glob("*.nc"))


def test_images_cover_the_cells_on_the_edges_of_a_region():
    assert recipes._around((5.0, 45.0, 11.0, 48.0)) == (4.8, 44.8, 11.2, 48.2)
    assert recipes._around((170.0, -89.9, 180.0, 10.0)) == pytest.approx((169.8, -90.0, -179.8, 10.2))
    assert recipes._around((-180.0, -10.0, -170.0, 89.9)) == pytest.approx((179.8, -10.2, -169.8, 90.0))
    assert recipes._around((170.0, 0.0, -170.0, 10.0)) == pytest.approx((169.8, -0.2, -169.8, 10.2))
    assert recipes._around((-180.0, -90.0, 180.0, 90.0)) == (-180.0, -90.0, 180.0, 90.0)


def test_the_images_that_are_fetched_are_those_that_the_model_needs(monkeypatch):
    def needed(**spec):
        values = {"bands": (), "surface": (), "static": ("igbp",), "images": (), "pixels": 64, **spec}
        model = SimpleNamespace(singles=[SimpleNamespace(spec=SimpleNamespace(**values))])
        monkeypatch.setattr(recipes, "load_model", lambda run: model)
        return {folder: names for folder, (names, _) in recipes._images_of("run").items()}

    chips, views = {"modis": ["MCD43A4", "MCD43A2"]}, {"reflectance": ["MOD09GA"]}
    assert needed() == {}
    assert needed(bands=("red",)) == chips and needed(bands=("red",), pixels=1) == views
    assert needed(surface=("NDVI",)) == needed(static=("igbp", "NDVI_P10")) == views
    assert needed(bands=("red",), surface=("NDVI",)) == chips | views
    assert needed(images=(SimpleNamespace(array="surface"),)) == views


def test_faults_of_endpoints_and_of_regions_are_named(tmp_path):
    assert recipes.read_endpoints({"era5": "http://x"}) == {"towers": None, "era5": "http://x", "modis": None}
    assert recipes.read_endpoints(None) == dict.fromkeys(("towers", "era5", "modis"))
    with pytest.raises(UnknownNameError, match="era5"):
        recipes.read_endpoints({"era": "http://x"})
    with pytest.raises(ConfigError, match="expected addresses by service"):
        recipes.read_endpoints("http://x")
    for region in ([5, 45, 11], "5,45,east,48", 5):
        with pytest.raises(ConfigError, match="region: expected a name"):
            recipes.plan_forcing(tmp_path, region=region, years=[2018], model="ecoperceiver-towers")
    for region in ("5,45,11,48", [5, 45, 11, 48], (5.0, 45.0, 11.0, 48.0)):
        era5, _ = recipes.plan_forcing(tmp_path, region=region, years=[2018], model="ecoperceiver-towers")
        assert era5.missing
    with pytest.raises(ConfigError, match="not both"):
        fc.fetch.towers(tmp_path, source="icos", endpoint="http://x", services=fc.fetch.towers_hubs.Services())
