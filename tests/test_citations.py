"""Each tower is cited by its own DOI, and BibTeX parses, whatever the names and titles contain."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.citations import PROCESSING_DOI, bibtex, own_citation, persistent_id, site_doi
from fluxcube.errors import ConfigError
from fluxcube.simulation.example import example_cube

PASTORELLO = "Pastorello et al. (2020): The FLUXNET2015 dataset"


def row(site="XX-Own", network="own", citation="Me (2026): Mine", doi="", licence="CC-BY-4.0") -> dict[str, str]:
    citation, doi = own_citation(site, network, citation, doi)
    of_site = site_doi(site, network, doi)
    return {
        "site": site,
        "network": network,
        "citation": citation,
        "doi": doi,
        "licence": licence,
        "site_doi": of_site,
    }


def parsed(text: str) -> dict[str, dict[str, str]]:
    """Parse BibTeX strictly: keys, fields in balanced braces, commas between them; entries by key."""
    entries: dict[str, dict[str, str]] = {}
    at = 0
    while at < len(text):
        head = re.compile(r"@misc\{([^\s,{}\"#%~\\]+),\s*").match(text, at)
        assert head, text[at : at + 60]
        at, fields = head.end(), {}
        while True:
            name = re.compile(r"([a-z]+) = \{").match(text, at)
            assert name, text[at : at + 60]
            start, depth, at = name.end(), 1, name.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
            fields[name[1]] = text[start : at - 1]
            end = re.compile(r",\s*(?=[a-z])|\s*\}\s*").match(text, at)
            assert end, text[at : at + 60]
            at = end.end()
            if "}" in end[0]:
                break
        assert head[1] not in entries
        entries[head[1]] = fields
    return entries


def test_an_identifier_is_a_doi_or_the_url_of_a_handle():
    assert persistent_id("https://dx.doi.org/10.25901/azz4-x655") == "10.25901/azz4-x655"
    assert persistent_id("doi:10.17190/AMF/1") == "10.17190/AMF/1"
    handle = "https://hdl.handle.net/11676/STLJfs_nkGgsI6sPzHNIgYE0"
    assert persistent_id("STLJfs_nkGgsI6sPzHNIgYE0", f"Smart, K. (2025). Product, FLUXNET, {handle}") == handle
    assert persistent_id("", "Me (2026). https://doi.org/10.5281/zenodo.1.") == "10.5281/zenodo.1"
    assert persistent_id("STLJ", "no identifier") == ""


def test_a_tower_is_cited_by_its_own_doi_where_it_is_known():
    one = row("DE-Tha", "FLUXNET2015", PASTORELLO, PROCESSING_DOI)
    assert one["doi"] == one["site_doi"] == "10.18140/FLX/1440152"
    assert one["citation"] == f"{PASTORELLO}; data of DE-Tha: https://doi.org/10.18140/FLX/1440152"
    assert row("DE-Tha", "FLUXNET2015", one["citation"], one["doi"]) == one  # a store that has it already
    of_carbonsense = row("DE-Tha", "CarbonSense v1", "Fortier (2025): CarbonSense", "10.5281/zenodo.11403428")
    assert of_carbonsense["doi"] == "10.5281/zenodo.11403428" and of_carbonsense["site_doi"] == one["doi"]
    unknown = row("XX-Xxx", "FLUXNET2015", PASTORELLO, PROCESSING_DOI)
    assert (unknown["citation"], unknown["doi"], unknown["site_doi"]) == (PASTORELLO, PROCESSING_DOI, "")
    newer = row("US-MMS", "FLUXNET Shuttle 2026", "A. Person (2027): US-MMS, v2", "10.17190/AMF/99")
    assert newer["doi"] == newer["site_doi"] == "10.17190/AMF/99"  # the download's own comes first


def test_a_tower_of_ones_own_without_a_citation_is_named():
    rows = [row("XX-Own", citation="own", licence=""), row("XX-Two; B", citation="")]
    assert rows[0]["citation"].startswith("Eddy-covariance data of the tower XX-Own")
    assert row("XX-Own", citation=rows[0]["citation"], licence="") == rows[0]  # a store that has it already
    found = parsed(bibtex(rows))
    assert list(found) == ["own_XX-Own", "own_XX-Two-B"]
    assert found["own_XX-Two-B"]["title"] == "{Eddy-covariance data of the tower XX-Two; B}"
    assert "No publication" in found["own_XX-Own"]["note"] and "CC-BY-4.0" in found["own_XX-Two-B"]["note"]


def test_bibtex_has_an_entry_for_each_tower_and_publication():
    rows = [row(site, "FLUXNET2015", PASTORELLO, PROCESSING_DOI) for site in ("DE-Tha", "US-MMS", "XX-Xxx")]
    rows.append(row("DE-Tha", "CarbonSense v1", "Fortier, Richter, Pal (2025): CarbonSense", "10.5281/zenodo.11403428"))
    rows += [row("XX-Aaa", citation="Me (2026): One"), row("XX-Bbb", citation="Me (2026): Two")]
    found = parsed(bibtex(rows))
    assert found["FLUXNET2015"]["author"] == "Pastorello and others" and found["FLUXNET2015"]["year"] == "2020"
    assert found["FLUXNET2015_DE-Tha"]["doi"] == "10.18140/FLX/1440152"
    assert found["CarbonSense-v1"]["author"] == "Fortier and Richter and Pal"
    assert [entry["title"] for key, entry in found.items() if key.startswith("own")] == ["{One}", "{Two}"]
    assert sum(entry.get("doi") == "10.18140/FLX/1440152" for entry in found.values()) == 1


@pytest.mark.parametrize(
    ("citation", "authors"),
    [
        ("Smart, K. (2025). Product", "Smart, K."),
        ("Hunt, J., Laubach, J.-P. (2026): Beacon Farm", "Hunt, J. and Laubach, J.-P."),
        ("Maria I. Gassmann, Natalia Tonti (2026), AmeriFlux", "Maria I. Gassmann and Natalia Tonti"),
        ("Warm Winter 2020 Team and ICOS Centre (2022): x", "{Warm Winter 2020 Team} and {ICOS Centre}"),
        ("Person, A. & Other, B. (2020) Title", "Person, A. and Other, B."),
    ],
)
def test_names_become_authors(citation, authors):
    (entry,) = parsed(bibtex([row(citation=citation)])).values()
    assert entry["author"] == authors


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_any_text_parses(citation, licence, site):
    found = parsed(
        bibtex([row(site, "own", citation, "10.1/{x}", licence), row(site, "own", "Me (2020): {", "", licence)])
    )
    assert 1 <= len(found) <= 2 and all(entry["title"] for entry in found.values())


def test_every_citation_of_the_shuttle_parses(shared_data):
    with open(shared_data / "meta/fluxnet_shuttle_snapshot_20260624.nocontacts.csv", encoding="utf-8-sig") as file:
        rows = [
            row(line["site_id"], "FLUXNET Shuttle 2026", text, persistent_id(line["product_id"], text))
            for line in csv.DictReader(file)
            for text in [" ".join(line["product_citation"].split())]
        ]
    assert all(one["doi"] == one["site_doi"] for one in rows)
    found = parsed(bibtex(rows))
    assert len(found) == len(rows) and sum("author" in entry for entry in found.values()) > 740


def test_a_cube_of_an_older_version_gives_them_too():
    cube = example_cube().isel(site=[0]).assign_coords(site=["DE-Tha"])
    texts = {"network": "FLUXNET2015", "citation": PASTORELLO, "doi": PROCESSING_DOI, "licence": "CC-BY-4.0"}
    cube = cube.assign_coords({name: ("site", np.array([text], object)) for name, text in texts.items()})
    assert isinstance(cube, xr.Dataset)
    table = cube.fluxcube.citations()
    assert table.columns.tolist() == ["site", "network", "citation", "doi", "licence", "site_doi"]
    assert table.doi.tolist() == ["10.18140/FLX/1440152"]
    assert set(parsed(cube.fluxcube.citations(format="bibtex"))) == {"FLUXNET2015", "FLUXNET2015_DE-Tha"}
    with pytest.raises(ConfigError, match="expected table or bibtex"):
        cube.fluxcube.citations(format="ris")
