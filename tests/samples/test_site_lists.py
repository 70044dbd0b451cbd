"""Lists of sites that are shipped with the package, and the splits that they define."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import SplitError, UnknownNameError
from fluxcube.knownsites import known_sites
from fluxcube.samples.site_lists import site_list, site_lists
from fluxcube.samples.splits import split_for


def towers_of(known):
    """A Dataset with places and classes of sites, as a split needs it."""
    names = ("latitude", "longitude", "igbp")
    return xr.Dataset(coords={"site": known.site.to_numpy(object)} | {n: ("site", known[n].to_numpy()) for n in names})


@pytest.fixture(scope="module")
def fluxnet2015():
    known = known_sites()
    return towers_of(known[known.networks.str.contains("FLUXNET2015") & known.igbp.ne("")])


def test_the_list_of_x_base_is_whole_and_well_formed():
    sites = site_list("xbase")
    assert len(sites) == 295 and set(sites.values()) == {"train"}
    assert all(re.fullmatch(r"[A-Z]{2}-[A-Za-z0-9]{3}", site) for site in sites)
    assert list(sites) == sorted(sites)
    unknown = set(sites) - set(known_sites().site)
    assert unknown == {"SE-Lnn"}


def test_towers_of_x_base_train_and_all_others_test(fluxnet2015):
    split = split_for(fluxnet2015, "sites:xbase", buffer_km=0)
    listed = set(site_list("xbase"))
    assert set(split.test) == set(fluxnet2015.site.values) - listed
    assert set(split.train) | set(split.val) == set(fluxnet2015.site.values) & listed
    assert 0.1 < len(split.val) / len(split.train + split.val) < 0.3
    assert split.kind == "sites:xbase"
    (absent,) = [note for note in split.notes if "not in the cube" in note]
    assert f"({len(listed - set(fluxnet2015.site.values))})" in absent


def test_a_training_tower_near_a_test_tower_is_left_out_and_named(fluxnet2015):
    split = split_for(fluxnet2015, "sites:xbase")
    verbatim = split_for(fluxnet2015, "sites:xbase", buffer_km=0)
    assert split.test == verbatim.test
    gone = set(verbatim.train + verbatim.val) - set(split.train + split.val)
    (note,) = [note for note in split.notes if note.startswith("left out of train")]
    assert gone and f"({len(gone)})" in note and all(site in note for site in gone)


def test_a_cube_of_x_base_towers_alone_has_none_to_test(fluxnet2015):
    alone = fluxnet2015.isel(site=np.isin(fluxnet2015.site, list(site_list("xbase"))))
    with pytest.raises(SplitError, match="no site to test"):
        split_for(alone, "sites:xbase")


def test_a_wrong_name_lists_the_names_there_are(fluxnet2015):
    with pytest.raises(SplitError, match="xbase"):
        split_for(fluxnet2015, "sites:x-bse")
    with pytest.raises(UnknownNameError, match="did you mean 'xbase'"):
        site_list("x-base")
    assert "xbase" in site_lists()


def test_a_file_of_the_same_name_comes_first(fluxnet2015, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xbase").write_text("site,part\nDE-Tha,test\n")
    assert split_for(fluxnet2015, "sites:xbase").test == ("DE-Tha",)
