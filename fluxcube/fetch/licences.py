"""Write LICENCE.md beside fetched data: licence, citation, date and request of every source in the folder."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from fluxcube.errors import printable
from fluxcube.fetch.items import LICENCE, OTHER_LICENCE, Licence, Plan
from fluxcube.fetch.ledger import Ledger
from fluxcube.stores.files import replacing

_TITLE = "# Licences and citations of the files in this folder\n\n"


def write_licence(folder: Path, plan: Plan, ledger: Ledger) -> Path | None:
    """Write or renew the section of a source in LICENCE.md; sections of other sources stay.

    Parameters
    ----------
    folder : Path
    plan : Plan
        Its items may have a ``citation`` in `Item.about`; those of all complete files are listed.
    ledger : Ledger
        Of the folder.

    Returns
    -------
    Path or None
        None if the plan has no licence.
    """
    if plan.licence is None:
        return None
    path = folder / LICENCE
    if path.exists() and not (path.is_file() and path.read_text("utf-8", "replace").startswith(_TITLE)):
        path = folder / OTHER_LICENCE  # the user's own file stays
    sections = _sections(path)
    sections[plan.source] = _section(plan, plan.licence, ledger, sections.get(plan.source, ""))
    with replacing(path) as temporary:
        temporary.write_text(_TITLE + "\n".join(sections[name] for name in sorted(sections)), "utf-8")
    return path


def _sections(path: Path) -> dict[str, str]:
    """Return the sections of a LICENCE.md that fetch has written, by source."""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    if not text.startswith(_TITLE):
        return {}
    parts = re.split(r"(?m)^(?=## )", text.removeprefix(_TITLE))
    return {part.partition("\n")[0].removeprefix("## "): part.rstrip() + "\n" for part in parts if part.strip()}


def _section(plan: Plan, licence: Licence, ledger: Ledger, before: str) -> str:
    """Return a section; citations of files that an earlier request fetched stay in it."""
    lines = [f"## {plan.source}", "", f"Licence: {licence.name}" + (f" <{licence.url}>" if licence.url else "")]
    lines += ["", licence.text] if licence.text else []
    lines += ["", f"Cite: {licence.citation}"] if licence.citation else []
    lines += ["", f"DOI: https://doi.org/{licence.doi}"] if licence.doi else []
    done = [item for item in plan.items if ledger.done(item)]
    today = datetime.now(UTC).date().isoformat()
    lines += ["", f"Fetched with fluxcube; last request on {today}: {len(done)} of {len(plan.items)} files complete."]
    texts = [" ".join(str(item.about.get("citation") or "").split()) for item in done]
    citations = {f"- {printable(text)}" for text in texts if text}
    citations |= {line for line in before.splitlines() if line.startswith("- ")}
    lines += ["", "Cite each of these data sets that you use:", "", *sorted(citations)] if citations else []
    return "\n".join(lines) + "\n"
