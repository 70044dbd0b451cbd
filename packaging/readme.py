"""Hook of the build: the package is described by the README, with absolute addresses in place of relative ones."""

from __future__ import annotations

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<image>!?)(?P<text>\[[^\]]*\]\()(?P<path>(?!https?:|mailto:|#)[^)\s]+)\)")
_SOURCE = re.compile(r'(?P<text>\bsrc=")(?P<path>(?!https?:)[^"]+)"')


def absolute(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links and pictures are addresses of a tag of the repository."""
    text = _LINK.sub(
        lambda m: f"{m['image']}{m['text']}{repository}/{'raw' if m['image'] else 'blob'}/{tag}/{m['path']})", text
    )
    return _SOURCE.sub(lambda m: f'{m["text"]}{repository}/raw/{tag}/{m["path"]}"', text)


class ReadmeHook(MetadataHookInterface):
    """Sets the description of the package."""

    def update(self, metadata: dict) -> None:
        """Set `readme` from README.md, `[project.urls]` and the version."""
        root = Path(self.root)
        version = re.search(r'__version__ = "(.+)"', (root / "fluxcube/__init__.py").read_text("utf-8"))
        text = absolute((root / "README.md").read_text("utf-8"), metadata["urls"]["Repository"], f"v{version[1]}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
