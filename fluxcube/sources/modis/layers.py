"""Recognise the layers of MODIS products from the names that archives and converters give to bands and files.

A band's name may be that of the layer (``Nadir_Reflectance_Band3``, ``HDF4_EOS:...:LC_Type1``), a number (``B03``,
``Band 3``), a colour (``blue``) or a wavelength (``469 nm``). The position of a band counts only where no name
contradicts it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fluxcube.sources.modis.grid import PRODUCTS

#: Layers that no product here uses: their names contain those of layers that are used.
_UNUSED = re.compile(
    r"quality|assessment|uncertainty|validobs|platform|solarnoon|zenith|azimuth|obscov|num_?obs|q_scan|iobs|granule"
    r"|orbit|percent|confidence|_std|parameters|(?:^|_)(?:wsa|bsa)(?:_|$)|(?:^|_)(?:qc|qa|lw)(?:_|\d|$)|\dqa$"
)
_NAMED = (
    (re.compile(r"nadir_?refl(?:ectance)?_?b(?:and)?_?0*([1-7])(?![0-9])"), "Nadir_Reflectance_Band{}"),
    (re.compile(r"sur_?refl(?:ectance)?_?b(?:and)?_?0*([1-7])(?![0-9])"), "sur_refl_b0{}"),
    (re.compile(r"sur_?refl(?:ectance)?_?b(?:and)?_?(0[89]|1[0-6])(?![0-9])"), "sur_refl_b{}"),
    (re.compile(r"snow_?brdf_?albedo"), "Snow_BRDF_Albedo"),
    (re.compile(r"land_?water_?type"), "BRDF_Albedo_LandWaterType"),
    (re.compile(r"state_?1km"), "state_1km"),
    (re.compile(r"(?:lc|land_?cover|^|_)_?type_?0*(\d)"), "LC_Type{}"),
    (re.compile(r"(?:lc|land_?cover)_?prop(?:erty)?_?0*(\d)"), "LC_Prop{}"),
)
#: Legends of land cover by their names.
_LEGENDS = {"igbp": 1, "umd": 2, "lai": 3, "bgc": 4, "pft": 5}
_LCCS = re.compile(r"(?:^|_)(?:fao|lccs\d?)(?:_|$)")
_NUMBER = re.compile(r"(?:^|_)(?:b|bd|bnd|band|layer|sds|x)?_?0*(\d{1,2})$")
_BAND_NUMBER = re.compile(r"(?:^|[^a-z])b(?:and|d|nd)?_?0*([1-7])(?![0-9])")
_COLOUR = re.compile(r"(?<![a-z])(red|green|blue|nir|near_?infra_?red|swir)_?(\d)?(?![a-z0-9])(?!_?edge)")
_COLOURS = {"red": {1}, "red1": {1}, "nir": {2}, "nir1": {2}, "blue": {3}, "blue3": {3}, "green": {4}, "green4": {4}}
#: Bands 5 to 7 are called swir1 to swir3, or nir2 (or swir0), swir1 and swir2 as of other sensors, or by their numbers.
_COLOURS |= {"nir2": {2, 5}, "swir0": {5}, "swir1": {5, 6}, "swir2": {6, 7}, "swir3": {7}}
_COLOURS |= {"swir5": {5}, "swir6": {6}, "swir7": {7}}
_NANOMETRES = re.compile(r"(\d{3,4})(?:\.\d+)?(?:\s*(?:-|–|to)\s*(\d{3,4}))?\s*nm")
#: Centres of bands 1 to 7, nm, and the accepted difference.
_CENTRES = {1: 645, 2: 858, 3: 469, 4: 555, 5: 1240, 6: 1640, 7: 2130}
_NEAR = 25
#: Words in the name of the only band of a land-cover file that are compatible with every legend.
_PLAIN = re.compile(r"land_?cover|(?:^|_)lc(?:_|$)|mcd12q1|class")


@dataclass(frozen=True)
class Reading:
    """The meaning of the name of a band.

    Attributes
    ----------
    text : str
        The name.
    layers : frozenset of str, optional
        Layers that it can be; empty if it is a layer that is not used, or if it contradicts itself; None if unknown.
    number : int, optional
        Number in a name that is nothing but a number, such as "Band 3"; it can be a position.
    """

    text: str
    layers: frozenset[str] | None = None
    number: int | None = None


def read_name(text: str | None, product: str) -> Reading:
    """Return the meaning of the name of a band of a product.

    Parameters
    ----------
    text : str or None
        Name of the band.
    product : str
        Key of `fluxcube.sources.modis.grid.PRODUCTS`.

    Returns
    -------
    Reading

    Examples
    --------
    >>> sorted(read_name("MOD_Grid_BRDF:Nadir_Reflectance_Band3", "MCD43A4").layers)
    ['Nadir_Reflectance_Band3']
    >>> sorted(read_name("blue (459-479 nm)", "MCD43A4").layers)
    ['Nadir_Reflectance_Band3']
    >>> read_name("LC_Prop1", "MCD12Q1").layers
    frozenset({'LC_Prop1'})
    >>> read_name("Band 2", "MCD43A4").number
    2
    """
    raw = (text or "").strip()
    plain = re.sub(r"[^a-z0-9]+", "_", raw.lower()).strip("_")
    if not plain:
        return Reading(raw)
    if _UNUSED.search(plain):
        return Reading(raw, frozenset())
    for pattern, layer in _NAMED:
        if match := pattern.search(plain):
            return Reading(raw, frozenset({layer.format(*match.groups())}))
    if product == "MCD12Q1" and (legend := _legend(plain)):
        return Reading(raw, frozenset({legend}))
    if match := _NUMBER.fullmatch(plain):
        return Reading(raw, number=int(match[1]))
    bands = _reflectance_bands(plain, raw) if len(PRODUCTS[product].layers) == 7 else None
    if bands is not None:
        return Reading(raw, frozenset(PRODUCTS[product].layers[band - 1] for band in bands))
    match = _NUMBER.search(plain)
    return Reading(raw, number=int(match[1]) if match else None)


def _legend(plain: str) -> str | None:
    """Return the layer of land cover whose legend a name contains."""
    words = set(plain.split("_"))
    found = [number for word, number in _LEGENDS.items() if word in words]
    if _LCCS.search(plain):
        return "LC_Prop1"
    return f"LC_Type{found[0]}" if found else None


def _reflectance_bands(plain: str, raw: str) -> set[int] | None:
    """Return the bands that a name can mean by number, colour and wavelength; None without any of them."""
    meanings: list[set[int]] = []
    numbers = {int(number) for number in _BAND_NUMBER.findall(plain)}
    if numbers:
        meanings.append(numbers if len(numbers) == 1 else set())
    for name, digit in _COLOUR.findall(plain):
        colour = "nir" if name.startswith("near") else name
        meanings.append(_COLOURS.get(f"{colour}{digit}", set()))
    for low, high in _NANOMETRES.findall(raw.lower()):
        centre = (int(low) + int(high or low)) / 2
        meanings.append({band for band, at in _CENTRES.items() if abs(at - centre) <= _NEAR})
    return set.intersection(*meanings) if meanings else None


def find_bands(product: str, names: Sequence[str | None]) -> tuple[int, ...] | None:
    """Return the numbers (from 1) of the bands that are a product's layers, in the order of the layers.

    Parameters
    ----------
    product : str
        Key of `fluxcube.sources.modis.grid.PRODUCTS`.
    names : sequence of str or None
        Name of each band of a file.

    Returns
    -------
    tuple of int or None
        None if the names do not determine the bands, or contradict their positions.

    Examples
    --------
    >>> find_bands("MCD43A4", ["blue", "green", "red", "nir", "swir1", "swir2", "swir3"])
    (3, 4, 1, 2, 5, 6, 7)
    >>> find_bands("MCD43A4", [""] * 7)
    (1, 2, 3, 4, 5, 6, 7)
    >>> find_bands("MCD12Q1", ["LC_Type5"]) is None
    True
    """
    layers = PRODUCTS[product].layers
    readings = [read_name(name, product) for name in names]
    if _are_positions(readings):
        return tuple(range(1, len(layers) + 1)) if _fits(readings, layers) else None
    options = [_options(reading, layers) for reading in readings]
    _settle(options)
    found = {layer: [i for i, o in enumerate(options, 1) if o == {layer}] for layer in layers}
    if all(len(bands) == 1 for bands in found.values()):
        return tuple(found[layer][0] for layer in layers)
    return None


def are_positions(product: str, names: Sequence[str | None]) -> bool:
    """Return whether no name of a band contradicts its position, as in `find_bands`."""
    return _are_positions([read_name(name, product) for name in names])


def _are_positions(readings: Sequence[Reading]) -> bool:
    """Return whether no name contradicts the position of its band: empty, all the same, or ascending numbers."""
    if any(reading.layers is not None for reading in readings):
        return False
    numbers = [reading.number for reading in readings]
    if any(number is not None for number in numbers):
        count = len(numbers)
        return numbers in (list(range(1, count + 1)), list(range(count)))
    return len({reading.text for reading in readings}) == 1


def _fits(readings: Sequence[Reading], layers: Sequence[str]) -> bool:
    """Return whether bands that only their positions identify can be the layers of a product."""
    text = re.sub(r"[^a-z0-9]+", "_", readings[0].text.lower()).strip("_")
    if layers == PRODUCTS["MCD12Q1"].layers and text and readings[0].number is None and not _PLAIN.search(text):
        return False
    return len(readings) == len(layers)


def _options(reading: Reading, layers: Sequence[str]) -> set[str]:
    """Return the layers of a product that a band can be."""
    if reading.layers is not None:
        return set(reading.layers) & set(layers) if reading.layers <= set(layers) else set()
    number = reading.number
    return {layers[number - 1]} if number is not None and 1 <= number <= len(layers) > 1 else set()


def _settle(options: list[set[str]]) -> None:
    """Remove, in place, from bands with several options those that belong to other bands."""
    settled: set[str] = set()
    while new := {next(iter(o)) for o in options if len(o) == 1} - settled:
        settled |= new
        for option in options:
            if len(option) > 1:
                option -= settled
