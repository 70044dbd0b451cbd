"""IGBP classes are known by code, by number and by name, and other texts are no class."""

from __future__ import annotations

import pytest

from fluxcube.biomes import IGBP_CODES, igbp_class

NAMES = {
    1: "Evergreen Needleleaf Forests",
    2: "Evergreen Broadleaf Forests",
    3: "Deciduous Needleleaf Forests",
    4: "Deciduous Broadleaf Forests",
    5: "Mixed Forests",
    6: "Closed Shrublands",
    7: "Open Shrublands",
    8: "Woody Savannas",
    9: "Savannas",
    10: "Grasslands",
    11: "Permanent Wetlands",
    12: "Croplands",
    13: "Urban and Built-up Lands",
    14: "Cropland/Natural Vegetation Mosaics",
    15: "Permanent Snow and Ice",
    16: "Barren",
    17: "Water Bodies",
}


@pytest.mark.parametrize(("number", "name"), NAMES.items())
def test_every_class_is_known_by_code_number_and_name(number, name):
    code = IGBP_CODES[number]
    forms = (name, name.upper(), name.lower(), name.replace(" ", "_"), name.replace(" ", "-"), f" {name} ")
    codes = (code, code.lower(), f" {code} ", str(number), f"{number}.0")
    both = (f"{code}: {name}", f"{name} ({code})", f"{code} - {name}", f"{number} - {name}", f"{code} ({name})")
    assert {text: igbp_class(text) for text in (*forms, *codes, *both)} == dict.fromkeys((*forms, *codes, *both), code)
    if number != 17:
        assert igbp_class(name.removesuffix("s")) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Needle-leaved evergreen forest", "ENF"),
        ("Evergreen Needle Leaf Forest", "ENF"),
        ("broad-leaved deciduous forest", "DBF"),
        ("Barren or Sparsely Vegetated", "BSV"),
        ("Snow/Ice", "SNO"),
        ("Urban", "URB"),
        ("crop land", "CRO"),
        ("savannah", "SAV"),
        ("Water body", "WAT"),
        ("WET (fen)", "WET"),
    ],
)
def test_other_spellings(text, code):
    assert igbp_class(text) == code


@pytest.mark.parametrize(
    "text",
    [
        *("", "TBD", "XYZ", "Forest", "Shrublands", "0", "18", "255", "ENF/GRA", "MF (ENF, DBF)", "GRA (Croplands)"),
        *("CRO; GRA", "12 - Grasslands", "Cropland 2", "Fen", "ENF?", "-9999", "CRO " * 50),
    ],
)
def test_other_texts_are_no_class(text):
    assert igbp_class(text) == ""
