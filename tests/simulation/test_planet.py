"""The planet: its weather, the memory of its land, and its towers and region."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from fluxcube.biomes import koppen
from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.humidity import vapour_pressure_deficit
from fluxcube.simulation import Planet, truth
from fluxcube.simulation.ecosystem import CLASSES, respond
from fluxcube.simulation.memory import soil_water, trailing_mean
from fluxcube.simulation.places import monthly_climate
from fluxcube.simulation.planet import has_tower
from fluxcube.simulation.surface import appearance, seasons
from fluxcube.simulation.weather import day_length, solar_season
from fluxcube.timestamps import hour_axis

JUNE = hour_axis(np.datetime64("2018-06-01"), np.datetime64("2018-06-15"))
PLACE = (np.array([40.0, -35.0]), np.array([-5.0, 140.0]))


def test_nee_is_reco_minus_gpp_and_gpp_needs_light():
    planet = Planet(0)
    flux, air = planet.fluxes(JUNE, *PLACE, ["GRA", "ENF"]), planet.weather(JUNE, *PLACE)
    assert np.array_equal(flux["NEE"], flux["RECO"] - flux["GPP"])
    assert (flux["RECO"] > 0).all() and (flux["GPP"] >= 0).all()
    assert flux["GPP"][air["SW_IN_POT"] == 0].max() == 0


def test_equal_seeds_yield_equal_planets_and_other_seeds_other_ones():
    one, same, other = (Planet(seed).fluxes(JUNE, *PLACE, ["CRO", "WET"])["NEE"] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 0.5


def test_fluxes_do_not_depend_on_where_a_request_begins():
    planet = Planet(0)
    whole = planet.fluxes(JUNE, *PLACE, ["GRA", "ENF"])["NEE"]
    late = planet.fluxes(JUNE[100:], *PLACE, ["GRA", "ENF"])["NEE"]
    assert np.abs(whole[:, 100:] - late).max() < 1e-2 * whole.std()


def test_weather_is_physical():
    planet = Planet(0)
    air = planet.weather(JUNE, *PLACE)
    assert (air["SW_IN"] <= air["SW_IN_POT"]).all() and (air["SW_IN"] >= 0).all()
    assert (air["P"] >= 0).all() and (air["TD"] <= air["TA"]).all()
    assert np.allclose(air["VPD"], vapour_pressure_deficit(air["TA"], air["TD"]))
    assert np.allclose(air["WS"], np.hypot(air["U"], air["V"]))
    # A wind from the west blows eastwards.
    west = np.abs(air["WD"] - 270) < 10
    assert (air["U"][west] > 0).all()


def test_half_hours_add_up_to_hours():
    planet = Planet(0)
    half = np.arange(JUNE[0], JUNE[-1] + np.timedelta64(1, "h"), np.timedelta64(30, "m"))
    hourly, halves = planet.weather(JUNE, *PLACE), planet.weather(half, *PLACE, step_hours=0.5)
    mean = halves["SW_IN_POT"].reshape(2, -1, 2).mean(-1)
    assert np.allclose(hourly["SW_IN_POT"], mean, atol=1.0)
    assert np.allclose(hourly["P"].sum(), halves["P"].sum(), rtol=0.05)


def test_weather_is_smooth_in_space():
    planet = Planet(0)
    near = planet.weather(JUNE, np.array([40.0, 40.05, 45.0]), np.array([-5.0, -5.05, 5.0]))["TA"]
    assert np.abs(near[0] - near[1]).mean() < 0.2 * np.abs(near[0] - near[2]).mean()


def _run(change: slice | None = None, factor: float = 0.0, igbp: str = "GRA") -> np.ndarray:
    """NEE of 120 days; rain of some hours is changed."""
    planet = Planet(0)
    time = hour_axis(np.datetime64("2018-04-01"), np.datetime64("2018-07-30"))
    air = planet.weather(time, PLACE[0][:1], PLACE[1][:1])
    if change is not None:
        air["P"][:, change] = air["P"][:, change] * factor + (0.5 if factor else 0.0)
    light = {"season": solar_season(time, PLACE[0][:1]), "daylight": day_length(time, PLACE[0][:1])}
    return respond(air, [igbp], step_hours=1.0, **light)["NEE"][0]


@pytest.mark.parametrize("igbp", ["GRA", "ENF", "SAV"])
def test_rain_of_three_weeks_ago_changes_nee_today(igbp):
    now = 80 * 24
    then = slice(now - 23 * 24, now - 20 * 24)
    dry, wet = _run(then, 0.0, igbp), _run(then, 1.0, igbp)
    assert np.abs(dry[now : now + 24] - wet[now : now + 24]).max() > 0.05


def test_the_future_never_changes_the_past():
    plain, changed = _run(), _run(slice(60 * 24, 63 * 24), 1.0)
    assert np.array_equal(plain[: 60 * 24], changed[: 60 * 24])
    assert not np.array_equal(plain[60 * 24 :], changed[60 * 24 :])


def test_memory_fades_within_a_season():
    start = slice(0, 3 * 24)
    assert np.abs(_run() - _run(start, 1.0))[-24:].max() < 0.02


def test_trailing_mean_is_the_recursion():
    x = np.random.default_rng(0).normal(size=300)
    keep, y = np.exp(-1 / 30.0), [x[0]]
    for value in x:
        y.append(keep * y[-1] + (1 - keep) * value)
    assert np.allclose(trailing_mean(x, 30.0), y[1:])


def test_soil_water_is_conserved():
    rng = np.random.default_rng(0)
    rain, demand = rng.exponential(0.05, (3, 500)), rng.uniform(0, 0.2, (3, 500))
    store, evaporation = soil_water(rain, demand, step_hours=1.0, capacity=1e4)
    # Between empty and full nothing runs off, and the drainage is known.
    drained = 0.06 * store[:, :-1] ** 4
    change = np.diff(store) * 1e4
    assert np.allclose(change, (rain - evaporation)[:, :-1] - drained, atol=1e-8)


def test_invalid_requests_are_refused():
    with pytest.raises(ConfigError, match="consecutive UTC hours"):
        Planet(0).fluxes(JUNE[::2], *PLACE, ["GRA", "ENF"])
    with pytest.raises(UnknownNameError, match="GRA"):
        Planet(0).fluxes(JUNE, *PLACE, ["GRAS", "ENF"])


def test_towers_are_as_varied_as_real_ones():
    towers = Planet(0).towers
    assert len(towers) == 36 and len({t.site for t in towers}) == 36
    counts = {code: sum(t.igbp == code for t in towers) for code in CLASSES}
    assert len(counts) >= 8 and min(counts.values()) >= 3
    assert {5.5, 5.75, 9.5, -3.5} <= {t.utc_offset for t in towers}
    assert all(abs(t.utc_offset - t.longitude / 15) < 2 for t in towers)
    assert sum(t.step_minutes == 60 for t in towers) == 4
    assert sum(t.latitude < 0 for t in towers) >= 5
    both = [t for t in towers if len(t.networks) == 2]
    assert len(both) >= 6
    for t in both:
        (_, a, b), (_, c, d) = t.networks
        assert max(a, c) <= min(b, d)


def test_quick_towers_leave_enough_in_each_class():
    towers = Planet(0, quick=True).towers
    counts = {code: sum(t.igbp == code for t in towers) for code in {t.igbp for t in towers}}
    assert len(counts) >= 4 and min(counts.values()) >= 3
    assert any(len(t.networks) == 2 for t in towers) and any(t.step_minutes == 60 for t in towers)
    grown = set(Planet(0, quick=True).region.igbp.ravel()) - {"WAT"}
    assert grown == set(counts)


def test_no_tower_has_the_name_of_a_real_site(shared_data):
    with (shared_data / "meta" / "fluxnet_shuttle_snapshot_20260624.nocontacts.csv").open(encoding="utf-8") as file:
        real = {row["site_id"] for row in csv.DictReader(file)}
    with (shared_data / "towers" / "sites.csv").open(encoding="utf-8") as file:
        real |= {row["site_id"] for row in csv.DictReader(file)}
    assert len(real) > 500
    assert not real & {t.site for t in Planet(0).towers}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_region_is_a_mosaic_within_the_towers_climates(seed):
    planet = Planet(seed)
    cells, towers = planet.region, planet.towers
    assert cells.igbp.shape == (10, 12)
    counts = {code: int((cells.igbp == code).sum()) for code in (*CLASSES, "WAT")}
    assert 1 <= counts["WAT"] <= 5 and min(counts[code] for code in CLASSES) >= 5
    assert 3 <= has_tower(planet).sum() <= 12
    assert not (has_tower(planet) & (cells.igbp == "WAT")).any()
    lat, lon = (x.ravel() for x in np.meshgrid(cells.latitude, cells.longitude, indexing="ij"))
    warmth = monthly_climate(seed, lat, lon)[0].mean(1)
    places = np.array([[t.latitude, t.longitude] for t in towers]).T
    at = monthly_climate(seed, *places)[0].mean(1)
    assert at.min() < warmth.min() and warmth.max() < at.max()
    for code in CLASSES:
        own = at[[t.igbp == code for t in towers]]
        assert (np.abs(own - warmth.mean()) < 6.5).sum() >= 3, code


def test_truth_equals_the_planets_fluxes_and_is_missing_over_water():
    planet = Planet(0, quick=True)
    ds = truth(planet, slice("2018-06-01", "2018-06-03"))
    assert dict(ds.sizes) == {"time": 48, "latitude": 4, "longitude": 5}
    i, j = np.argwhere(ds.igbp.values != "WAT")[0]
    lat, lon = float(ds.latitude[i]), float(ds.longitude[j])
    expected = planet.fluxes(ds.time.values, [lat], [lon], [str(ds.igbp.values[i, j])])["NEE"][0]
    assert np.allclose(ds.NEE[:, i, j], expected, atol=1e-4)
    assert np.allclose(ds.NEE, ds.RECO_NT - ds.GPP_NT, atol=1e-4, equal_nan=True)
    assert np.isnan(ds.NEE.values[:, ds.igbp.values == "WAT"]).all()


def test_koppen_by_hand():
    season = np.cos(2 * np.pi * (np.arange(12) - 6) / 12)
    rain = {"even": np.full(12, 80.0), "dry summer": 60 - 55 * season, "desert": np.full(12, 5.0)}
    cases = [
        (27.0, 1, "even", "Af"),
        (15.0, 10, "dry summer", "Csa"),
        (10.0, 8, "even", "Cfb"),
        (3.0, 15, "even", "Dfb"),
        (25.0, 8, "desert", "BWh"),
        (-10.0, 12, "even", "ET"),
    ]
    for mean, swing, wet, expected in cases:
        assert koppen((mean + swing * season)[None], rain[wet][None], np.array([45.0])) == [expected]
    southern = np.roll(15.0 + 10 * season, 6)[None], np.roll(rain["dry summer"], 6)[None]
    assert koppen(*southern, np.array([-35.0])) == ["Csa"]


def test_satellite_sees_leaves_and_water():
    planet = Planet(0)
    days = np.arange("2018-01-01", "2018-12-31", 8, dtype="datetime64[D]")
    for code in ("DBF", "GRA", "CRO"):
        bands = appearance(planet, days, PLACE[0][:1], PLACE[1][:1], [code])[0]
        clear = bands[:, 7] == 0
        red, nir, swir = (bands[clear, k] for k in (0, 1, 5))
        state = seasons(planet, days, PLACE[0][:1], PLACE[1][:1])
        leaves, water = state["leaves"][CLASSES.index(code), 0][clear], state["water"][0][clear]
        assert np.corrcoef((nir - red) / (nir + red) * nir, 1 - np.exp(-0.5 * leaves))[0, 1] > 0.9
        # At equal leaves, wet ground is darker in the short-wave infrared.
        terms = np.stack([np.ones_like(leaves), np.exp(-0.5 * leaves), water], 1)
        assert np.linalg.lstsq(terms, swir, rcond=None)[0][2] < -0.03
