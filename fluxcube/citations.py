"""Citations of tower data: persistent identifiers, the product of each tower, and BibTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from fluxcube.knownsites import TOWER_PRODUCTS, product_doi, tower_doi

#: The paper that describes FLUXNET2015 and the processing of later FLUXNET products, by which networks are cited whose
#: towers have products of their own; it is no identifier of a tower's data.
PROCESSING_DOI = "10.1038/s41597-020-0534-3"

_FLUXNET2015_DOI = "10.18140/FLX/"
_DOI = re.compile(r"10\.\d{4,9}/[^\s\"<>{}]+")
_HANDLE = re.compile(r"https?://hdl\.handle\.net/[^\s\"<>{}]+")
_OF_TOWER = re.compile(r"(?P<publication>.*); data of \S+: https?://\S+", re.DOTALL)
_CITATION = re.compile(r"(?P<authors>.*?),?\s*\((?P<year>\d{4})\)[\s,.:;]*(?P<title>.+)", re.DOTALL)
_INITIALS = re.compile(r"(?:[^\W\d_]{1,2}\.[\s-]?){1,4}|[A-Z]{1,3}")
_GROUP = re.compile(r"\d|\b(?:Team|Centre|Center|RI|Network|Consortium|Project|Community)\b")
_ESCAPED = str.maketrans(
    {
        "\\": "/",
        "{": "(",
        "}": ")",
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "$": r"\$",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def persistent_id(identifier: str, citation: str = "") -> str:
    """Return the DOI in an identifier or a citation, without a resolver, or the URL of the handle; "" without either.

    Parameters
    ----------
    identifier : str
        DOI, URL, or identifier of a data portal (the Shuttle's ``product_id``).
    citation : str
        Citation of the product; it is searched where the identifier has neither.

    Examples
    --------
    >>> persistent_id("https://dx.doi.org/10.25901/azz4-x655"), persistent_id("STLJ", "FLUXNET, doi:10.1/x")
    ('10.25901/azz4-x655', '')
    >>> persistent_id("STLJfs", "Smart, K. (2025). FLUXNET, https://hdl.handle.net/11676/STLJfs")
    'https://hdl.handle.net/11676/STLJfs'
    """
    for text in (identifier, citation):
        for pattern in (_DOI, _HANDLE):
            if match := pattern.search(text):
                return match[0].rstrip(".,;:)]")
    return ""


def own_citation(site: str, network: str, citation: str, doi: str) -> tuple[str, str]:
    """Return the citation and the identifier of a tower's own product where they are known, else those passed.

    Data without any, such as those of one's own tower, are named by the tower, since nothing else is known of them.

    Parameters
    ----------
    site, network : str
        The tower, and the publication that its values come from.
    citation, doi : str
        Citation and DOI of the publication, or of the tower's product.

    Examples
    --------
    >>> own_citation("DE-Tha", "FLUXNET2015", "Pastorello et al. (2020)", "10.1038/s41597-020-0534-3")
    ('Pastorello et al. (2020); data of DE-Tha: https://doi.org/10.18140/FLX/1440152', '10.18140/FLX/1440152')
    """
    found = persistent_id(doi, citation if doi and not _DOI.search(doi) else "")
    own = product_doi(site, network)
    if own and found in ("", PROCESSING_DOI):
        return f"{citation}; data of {site}: {url_of(own)}", own
    if not (found or doi) and citation in ("", network):
        return _uncited(site), ""
    return citation, found or doi


def _uncited(site: str) -> str:
    """Return the citation of data of which none is recorded."""
    return f"Eddy-covariance data of the tower {site}; no publication of them is recorded"


def site_doi(site: str, network: str, doi: str) -> str:
    """Return the identifier of a tower's own data: that of the product used, or of one that it was compiled from."""
    own = network in TOWER_PRODUCTS and doi not in ("", PROCESSING_DOI)
    return doi if own else tower_doi(site, network)


def url_of(identifier: str) -> str:
    """Return the URL of a DOI or handle; "" for other texts.

    Examples
    --------
    >>> url_of("10.18140/FLX/1440152"), url_of("own")
    ('https://doi.org/10.18140/FLX/1440152', '')
    """
    if _DOI.fullmatch(identifier):
        return f"https://doi.org/{identifier}"
    return identifier if identifier.startswith("http") else ""


def bibtex(rows: Iterable[Mapping[str, str]]) -> str:
    """Return citations as BibTeX: an entry for each tower's own data, and one for each publication.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of ``ds.fluxcube.citations()``: ``site``, ``network``, ``citation``, ``doi``, ``licence``, ``site_doi``.

    Returns
    -------
    str
        UTF-8 text; each key is there once.

    Examples
    --------
    >>> row = {"site": "XX-Own", "network": "own", "citation": "Me (2026): My tower", "licence": "CC0-1.0"}
    >>> print(bibtex([{**row, "doi": "10.5281/zenodo.1", "site_doi": ""}]))
    @misc{own,
      author = {Me},
      title = {{My tower}},
      year = {2026},
      doi = {10.5281/zenodo.1},
      url = {https://doi.org/10.5281/zenodo.1},
      note = {Licence: CC0-1.0}
    }
    """
    entries: dict[str, Mapping[str, str]] = {}
    for row in rows:
        for key, fields in _entries(row):
            for unique in _keys(key, row["site"]):
                if entries.setdefault(unique, fields) == fields:
                    break
    return "\n\n".join(_written(key, fields) for key, fields in entries.items())


def _entries(row: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Return keys and fields of the entries of a row: that of the publication, and that of the tower's own data."""
    site, network, citation, doi = row["site"], row["network"], row["citation"], row["doi"]
    licence = {"note": _plain(f"Licence: {row['licence']}")} if row["licence"] else {}
    if citation == _uncited(site) and not row["site_doi"]:
        title, _, note = citation.rpartition("; ")
        note = ". ".join([note.capitalize(), *licence.values()])
        return [(f"{_slug(network)}_{_slug(site)}", {"title": _plain(title), "note": note})]
    if match := _OF_TOWER.fullmatch(citation):
        publication = {**_parsed(match["publication"]), **_identified(PROCESSING_DOI)}
    elif doi and doi == row["site_doi"]:
        return [(f"{_slug(network)}_{_slug(site)}", {**_parsed(citation), **_identified(doi), **licence})]
    else:
        publication = {**_parsed(citation), **_identified(doi), **licence}
    entries = [(_slug(network), publication)]
    if row["site_doi"]:
        product = "FLUXNET2015" if row["site_doi"].startswith(_FLUXNET2015_DOI) else "FLUXNET"
        title = f"{product}: data of the eddy-covariance tower {site}"
        entries.append(
            (f"{product}_{_slug(site)}", {"title": _plain(title), **_identified(row["site_doi"]), **licence})
        )
    return entries


def _parsed(citation: str) -> dict[str, str]:
    """Return author, title and year of a citation such as "Name, A., Other, B. (2020): Title"; else a title only."""
    match = _CITATION.fullmatch(citation.strip())
    if match is None:
        return {"title": _plain(citation)}
    fields = {"author": _authors(match["authors"])} if match["authors"].strip() else {}
    title = re.sub(r"[\s,]*(?:\(Dataset\)[\s.,]*)?(?:https?://\S+)?[\s,.]*$", "", match["title"])
    return fields | {"title": _plain(title or match["title"]), "year": match["year"]}


def _authors(text: str) -> str:
    """Return names separated by commas, "and" or "et al." as BibTeX separates them: by "and"."""
    text, others = re.subn(r"[\s,]+et al\.?$", "", " ".join(text.split()))
    if _GROUP.search(text):
        names = [f"{{{_plain(name)}}}" for name in re.split(r"\s+and\s+", text)]
    else:
        names = [_plain(name) for name in _names([part.strip() for part in re.split(r",|\s&\s|\sand\s", text)])]
    return " and ".join([*names, *(["others"] if others else [])])


def _names(parts: Sequence[str]) -> list[str]:
    """Return names from parts between commas: surnames that initials follow are joined with them."""
    names: list[str] = []
    for part in parts:
        if names and "," not in names[-1] and _INITIALS.fullmatch(part):
            names[-1] = f"{names[-1]}, {part}"
        elif part:
            names.append(part)
    return names


def _identified(identifier: str) -> dict[str, str]:
    """Return the fields of a DOI or of the URL of a handle."""
    identifier = re.sub(r"[{}\s]", "", identifier)
    fields = {"doi": identifier} if _DOI.fullmatch(identifier) else {}
    return fields | ({"url": url_of(identifier)} if url_of(identifier) else {})


def _plain(text: str) -> str:
    """Return a text in one line, with the characters that LaTeX interprets escaped."""
    return " ".join(text.split()).translate(_ESCAPED)


def _slug(text: str) -> str:
    """Return a text as a part of a key: ASCII letters, digits and hyphens."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", ascii_text).strip("-") or "data"


def _keys(key: str, site: str) -> Iterable[str]:
    """Yield keys for an entry, the next ones for other entries of the same name."""
    yield key
    named = key if key.endswith(_slug(site)) else f"{key}_{_slug(site)}"
    yield named
    yield from (f"{named}-{number}" for number in range(2, 1000))


def _written(key: str, fields: Mapping[str, str]) -> str:
    values = {**fields, "title": f"{{{fields['title']}}}"}  # styles keep the capitals of a text in two pairs of braces
    lines = [
        f"  {name} = {{{values[name]}}}" for name in ("author", "title", "year", "doi", "url", "note") if name in values
    ]
    return "\n".join([f"@misc{{{key},", ",\n".join(lines), "}"])
