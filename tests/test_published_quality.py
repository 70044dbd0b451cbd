"""Cubes of the published CarbonSense, which kept no flags, go through fit, search and evaluate with the defaults."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys

import numpy as np
import pytest

import fluxcube as fc
from fluxcube import cli
from fluxcube.errors import ConfigError
from fluxcube.resolution import HOURLY
from fluxcube.samples.quality import best_flags, named_best_flags
from fluxcube.samples.towers import cube_spec
from fluxcube.simulation.published import write_v1, write_v2
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.sources.towers.networks import networks

pytestmark = pytest.mark.usefixtures("short_applicability")

US = Place(site="US-Z00", latitude=40.0, longitude=-90.0, elevation=231, igbp="CRO", koppen="Dfa", utc_offset=-6)
PLACES = [
    dataclasses.replace(US, site=f"US-Z{i:02d}", latitude=30.0 + 3 * i, longitude=-90.0 + 5 * i, igbp=igbp)
    for i, igbp in enumerate(("CRO", "CRO", "GRA", "GRA", "CRO", "GRA"))
]
SITES = [place.site for place in PLACES]
BEST = {"v1": 1, "v2": 2}
BOOST = {"model": "xgboost", "predictors": ("DOY", "TOD", "TA", "SW_IN"), "bands": (), "static": ("igbp",)}


@pytest.fixture(scope="module", params=list(BEST))
def published(request, tmp_path_factory):
    """A built cube of one version: its name, its store and the cube."""
    raw, store = tmp_path_factory.mktemp(request.param), tmp_path_factory.mktemp("store") / "cube.zarr"
    records = [simulate_record(place, "2012-06-01", days=12, step_minutes=60, seed=i) for i, place in enumerate(PLACES)]
    if request.param == "v1":
        for place, record in zip(PLACES, records, strict=True):
            write_v1(raw / "carbonsense", record, place, dump=pickle.dumps)
    else:
        write_v2(raw / "carbonsense_v2.sql", list(zip(PLACES, records, strict=True)))
    fc.build_carbonsense(raw, store)
    return request.param, store, fc.open_carbonsense(store)


@pytest.fixture(scope="module")
def split(published):
    return split_of(published[2])


def split_of(cube):
    from fluxcube.samples.splits import kfold

    one = kfold(cube, k=3, seed=0, buffer_km=0.0)[0]
    assert one.train and one.val and one.test
    return one


def test_the_best_flag_of_a_cube_is_the_one_its_publication_names(published):
    version, _, cube = published
    flags = cube.fluxes_qc.values
    assert (best_flags(cube) == BEST[version]).all()
    assert flags[flags >= 0].min() == BEST[version] == networks()[f"CarbonSense {version}"].best_flag
    assert named_best_flags(cube) == f"flag {BEST[version]} of {', '.join(SITES[:5])} and 1 more"


def test_fit_and_evaluate_with_the_defaults(published, split, tmp_path):
    version, _, cube = published
    run = fc.fit(cube, out=tmp_path / "run", split=split, config={"n_estimators": 5}, **BOOST)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["request"]["max_qc"] == 1 and any("val" in key for key in run.history[0]), "it is validated"
    predicted = fc.predict(run.path, cube)
    scored = fc.evaluate(cube, predicted).sel(target="NEE")
    flags = cube.fluxes_qc.sel(target="NEE").values
    expected = int(((flags == BEST[version]) & np.isfinite(predicted.NEE.transpose("site", "time").values)).sum())
    assert int(scored.n) == expected > 0 and np.isfinite(scored.rmse)
    assert f"(flag {BEST[version]} of US-Z00, " in scored.attrs["row_mask"] and scored.attrs["max_qc"] == 0
    assert int(fc.evaluate(cube, predicted, max_qc=3).n.sum()) >= expected


def test_search_with_the_defaults(published, split, tmp_path):
    from fluxcube.training.search import SearchOptions, random_search

    _, _, cube = published
    spec = cube_spec(cube, SITES, predictors=BOOST["predictors"], bands=(), static=("igbp",))
    found = random_search(cube, SITES, spec=spec, options=SearchOptions(**BRIEF, draws=2, rows=400))
    assert all(np.isfinite(row["nse"]) for row in found.draws)
    options = BOOST | {"config": {"search_rows": 300}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fluxcube.training.search.random_search", brief(random_search))
        run = fc.fit(cube, out=tmp_path / "run", split=split, search=1, **options)
    assert (run.path / "search.jsonl").exists()


BRIEF = {"trees": 4, "patience": 2, "folds": 2, "buffer_km": 0}


def brief(search):
    """Return the search with fewer trees and folds."""
    return lambda *args, options, **more: search(*args, options=dataclasses.replace(options, **BRIEF), **more)


def test_the_commands_with_the_defaults(published, split, tmp_path, monkeypatch, capsys):
    from fluxcube.training.search import random_search

    version, store, _ = published
    split.save(tmp_path / "split.json")

    def run(line: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fluxcube", *line.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, ended.value.code
        return capsys.readouterr().out

    names = "--predictors DOY,TOD,TA,SW_IN --static igbp --no-chips"
    run(f"train {store} {tmp_path}/x --model xgboost --set config.n_estimators=4 --split {tmp_path}/split.json {names}")
    told = run(f"evaluate {tmp_path}/x {store} --draws 0")
    assert f"flag {BEST[version]} of" in told
    assert run(f"evaluate {tmp_path}/x {store} --draws 0 --max-qc 3")
    monkeypatch.setattr("fluxcube.training.search.random_search", brief(random_search))
    options = f"--model xgboost --search 1 --set config.search_rows=300 --split {tmp_path}/split.json {names}"
    run(f"train {store} {tmp_path}/searched {options}")
    assert (tmp_path / "searched" / "search.jsonl").exists()


def test_a_site_with_flags_keeps_them(published):
    """Beside FLUXNET2015, whose values have flags, a site is scored on flag 0 alone; unknown names change nothing."""
    _, _, cube = published
    names = cube.network.values.copy()
    names[0], names[1] = f"FLUXNET2015;{names[0]}", "somewhere else"
    mixed = cube.assign_coords(network=("site", names))
    assert best_flags(mixed)[:2].tolist() == [0, 0] and (best_flags(mixed)[2:] > 0).all()
    scored = fc.evaluate(mixed, cube.fluxes.sel(target=["NEE"]), by="site")
    assert scored.n.sel(group=SITES[:2]).sum() == 0 and (scored.n.sel(group=SITES[2:]) > 0).all()
    with pytest.raises(ConfigError, match="no window"):
        fc.load_windows(mixed, cube_spec(mixed, predictors=("TA",), bands=()), sites=SITES[:1], length=2, max_qc=0)


def test_a_limit_is_raised_to_the_best_flag():
    flags = np.int8([-1, 0, 1, 2, 3])
    assert HOURLY.limit(0).accepts(flags, best=2).tolist() == [False, True, True, True, False]
    assert HOURLY.limit(3).accepts(flags, best=2).tolist() == [False, True, True, True, True]
