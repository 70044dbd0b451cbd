"""The files that describe the package agree, and a release is refused where it would be a wrong one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import fluxcube

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = ("fluxcube/__init__.py", "CITATION.cff", "CHANGELOG.md", "packaging/release.sh")


def git(folder, *arguments):
    """Run git in a folder; return its output."""
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def release(folder, version, **env):
    """Run the release script in a folder."""
    names = {"GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@x", "GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x@x"}
    path = f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    env = {"PATH": path, "CHECKS": "true", "PYTHON": "true", **names, **env}
    script = folder / "packaging" / "release.sh"
    return subprocess.run(["bash", script, version], cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture
def clone(tmp_path):
    """A repository with the files that a release changes."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(re.sub(r"(## Unreleased\n)", r"\1\n- A change.\n", changelog.read_text("utf-8")), "utf-8")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    return tmp_path


def test_version_date_and_address_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version, date = re.search(r"^## (\d\S+) - (\S+)$", changelog, re.M).groups()
    assert citation["version"] == version == fluxcube.__version__
    assert str(citation["date-released"]) == date
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]


def test_every_python_of_the_classifiers_is_tried_and_none_below_the_lowest():
    stated = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    tried = set(re.findall(r'"(3\.\d+)"', (ROOT / "packaging" / "wheel.py").read_text("utf-8")))
    assert stated <= tried and f">={min(stated)}" == PROJECT["requires-python"]


def test_links_of_the_description_are_absolute():
    pytest.importorskip("hatchling")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'packaging')!r}); from readme import absolute\n"
        "print(absolute(sys.stdin.read(), 'https://x.org/r', 'v1'))"
    )
    text = '![a](docs/a.png) [b](docs/b.md#c) [d](https://d.org) [e](#e) <img src="docs/f.png">'
    out = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, check=True).stdout
    assert out.strip() == (
        "![a](https://x.org/r/raw/v1/docs/a.png) [b](https://x.org/r/blob/v1/docs/b.md#c) [d](https://d.org) [e](#e) "
        '<img src="https://x.org/r/raw/v1/docs/f.png">'
    )


def test_a_release_sets_version_and_date_once_and_tags(clone):
    done = release(clone, "9.1.0")
    assert done.returncode == 0, done.stderr
    assert git(clone, "tag").split() == ["v9.1.0"] and not git(clone, "status", "--porcelain")
    assert '__version__ = "9.1.0"' in (clone / "fluxcube/__init__.py").read_text("utf-8")
    citation = yaml.safe_load((clone / "CITATION.cff").read_text("utf-8"))
    assert re.search(
        rf"## Unreleased\n\n## 9\.1\.0 - {citation['date-released']}\n", (clone / "CHANGELOG.md").read_text("utf-8")
    )
    assert citation["version"] == "9.1.0" and "twine upload" in done.stdout
    again = release(clone, "9.1.0")
    assert again.returncode == 1 and "v9.1.0 exists" in again.stderr
    assert "no entry under '## Unreleased'" in release(clone, "9.2.0").stderr


def test_a_wrong_release_is_refused_and_changes_nothing(clone):
    assert "make release VERSION=" in release(clone, "9").stderr
    assert "failed: mend it" in release(clone, "9.1.0", CHECKS="false").stderr
    git(clone, "switch", "-q", "-c", "other")
    assert "git switch main" in release(clone, "9.1.0").stderr
    assert not git(clone, "status", "--porcelain") and not git(clone, "tag")
    (clone / "CITATION.cff").write_text("x", "utf-8")
    assert "uncommitted changes" in release(clone, "9.1.0").stderr


def test_the_list_of_long_tests_names_tests():
    lines = [line for line in (ROOT / "tests" / "long_tests.txt").read_text("utf-8").splitlines() if line[:1] != "#"]
    assert lines == sorted(set(lines))
    gone = [
        line
        for file, _, name in (line.partition("::") for line in lines)
        if not re.search(rf"^ *def {name.partition('[')[0]}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)
        for line in [f"{file}::{name}"]
    ]
    assert not gone, f"renamed or removed: {gone}"
