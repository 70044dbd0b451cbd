"""The table of known sites is complete and consistent, and supplies what a download lacks, never instead of it."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import fluxcube as fc
from fluxcube.biomes import igbp_number
from fluxcube.knownsites import known_site, product_doi, tower_doi


@pytest.fixture(scope="module")
def table():
    return fc.known_sites()


def test_every_line_is_plausible_and_names_its_source(table):
    assert table.site.is_unique and table.site.is_monotonic_increasing and len(table) == 848
    assert table.site.str.fullmatch(r"[A-Z]{2}-[A-Za-z0-9]{3}").all()
    assert table.latitude.between(-90, 90).all() and table.longitude.between(-180, 180).all()
    assert table.elevation.dropna().between(-10, 5000).all()
    assert (table.source != "").all()
    for code in set(table.igbp) - {""}:
        igbp_number(code)
    years = table.dropna(subset=["first_year"])
    assert (years.first_year <= years.last_year).all() and years.first_year.min() >= 1985
    identified = table[table.doi != ""].doi
    assert identified.str.fullmatch(r"10\.\d{4,9}/\S+|https://hdl\.handle\.net/11676/\S+").all()


def test_offsets_are_standard_times_near_the_longitude(table):
    known = table.dropna(subset=["utc_offset"])
    assert len(known) > 450
    assert (known.utc_offset - known.longitude / 15).abs().max() < 2.5  # no sign is lost, and none is of summer
    assert (known[known.site.str.startswith("DE-")].utc_offset == 1).all()
    assert set(known[known.site.str.startswith("AU-")].utc_offset) == {8, 9.5, 10}


def test_every_site_of_fluxnet2015_has_a_place_and_its_doi(table):
    of = table[table.networks.str.contains("FLUXNET2015")]
    assert len(of) == 212 and of.fluxnet2015_doi.str.fullmatch(r"10\.18140/FLX/1440\d{3}").all()
    assert of.fluxnet2015_doi.is_unique and (of.igbp != "").all()
    assert (table[~table.site.isin(of.site)].fluxnet2015_doi == "").all()


def test_the_doi_is_that_of_the_product_of_a_publication():
    assert product_doi("US-MMS", "FLUXNET2015") == "10.18140/FLX/1440083"
    assert product_doi("US-MMS", "FLUXNET Shuttle 2026") == product_doi("US-MMS", "AmeriFlux FLUXNET")
    assert product_doi("US-MMS", "FLUXNET Shuttle 2026").startswith("10.17190/AMF/")
    assert product_doi("DE-Tha", "AmeriFlux FLUXNET") == ""  # AmeriFlux has no product of it
    assert (
        product_doi("US-MMS", "own")
        == product_doi("XX-Xxx", "FLUXNET2015")
        == tower_doi("XX-Xxx", "CarbonSense v1")
        == ""
    )
    assert tower_doi("DE-Tha", "CarbonSense v2") == product_doi("DE-Tha", "FLUXNET2015")


def test_it_agrees_with_the_real_towers(shared_data):
    for folder in ("towers", "towers2"):
        with open(shared_data / folder / "sites.csv") as file:
            for row in csv.DictReader(file):
                known = known_site(row["site_id"])
                numbers = [float(row[name]) for name in ("latitude", "longitude", "utc_offset")]
                np.testing.assert_allclose([known.latitude, known.longitude, known.utc_offset], numbers, atol=1e-4)
                assert known.igbp == row["igbp"]
                assert not row["elevation"] or known.elevation == float(row["elevation"])
