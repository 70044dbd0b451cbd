"""Build wheel and sdist, check what they contain, and try them in clean environments outside the checkout.

    python packaging/wheel.py [--python 3.12 ...]

The wheel is installed with what the demo needs into an environment of the Python that runs this script, where the
quick demo must pass; alone into an environment of every other Python from 3.11 on that is found; and the sdist alone
into one of this Python. Alone, it must import, print its version and help, build and open a cube, and name the extra
that a command needs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
SMOKE = Path(__file__).with_name("smoke.py")
#: What the demo needs.
EXTRAS = "train,grid,sources,plot"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
#: An index accepts files of up to 100 MB.
LARGEST = 60 * 10**6
DATA = ("py.typed", "data/variables.yml", "data/networks.yml", "data/fluxcube.yaml", "data/models/ecoperceiver-towers/")


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run a command without the paths of this environment; return its output, or stop with it."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "FLUXCUBE_DATA")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def build() -> tuple[Path, Path]:
    """Return the new wheel and sdist; the wheel is built from the sdist."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT)
    files = sorted(DIST.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    return next(f for f in files if f.suffix == ".whl"), next(f for f in files if f.name.endswith(".tar.gz"))


def check_wheel(wheel: Path) -> None:
    """Stop if the wheel lacks data or a licence, has what is not the package's, or relative links."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = next(name for name in names if name.endswith("/METADATA"))
        description = archive.read(about).decode()
        texts = {
            name: archive.read(name) for name in names if name.endswith((".py", ".yml", ".yaml", ".json", ".toml"))
        }
    lacking = [part for part in DATA if not any(name.startswith(f"fluxcube/{part}") for name in names)]
    lacking += [] if any(name.endswith("licenses/LICENSE") for name in names) else ["LICENSE"]
    foreign = [name for name in names if not name.startswith(("fluxcube/", "fluxcube-"))]
    paths = [
        name for name, text in texts.items() if str(ROOT).encode() in text or str(Path.home()).encode() + b"/" in text
    ]
    links = re.findall(r"\]\((?!https?:|#|mailto:)[^)]+\)", description)
    for fault in (lacking, foreign, paths, links):
        assert not fault, f"{wheel.name}: {fault}"
    assert wheel.stat().st_size < LARGEST, f"{wheel.name} has {wheel.stat().st_size} bytes"


def check_sdist(sdist: Path) -> None:
    """Stop if the sdist lacks what building or testing it needs."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    lacking = {
        "LICENSE",
        "CHANGELOG.md",
        "pyproject.toml",
        "packaging/readme.py",
        "tests/conftest.py",
        "catalogs/fluxcube.yaml",
    }
    assert lacking <= names, sorted(lacking - names)
    assert sdist.stat().st_size < LARGEST


def pythons(versions: list[str]) -> Iterator[tuple[str, str]]:
    """Yield version and path of each Python that is found, of PATH and of pyenv."""
    for version in versions:
        inside = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        for path in [f"python{version}", *map(str, inside)]:
            if shutil.which(path) and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
                yield version, path
                break


def environment(folder: Path, python: str, what: str) -> Path:
    """Return the program folder of a new environment with a package and its tested dependencies."""
    run(python, "-m", "venv", folder)
    uv, links = Path(sys.executable).with_name("uv"), os.environ.get("PIP_FIND_LINKS")
    quick = [uv, "pip", "install", "-q", "--python", folder / "bin/python", *(["--find-links", links] if links else [])]
    tested = ("-c", ROOT / "constraints.txt", what)
    if not uv.exists() or subprocess.run([*map(str, (*quick, *tested))], cwd=ROOT, capture_output=True).returncode:
        pip = (folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile")
        run(*pip, *tested)  # where only pip is configured for a mirror
    return folder / "bin"


def try_it(program: Path, empty: Path) -> None:
    """Stop if the installed package does not do what a user does first."""
    empty.mkdir()
    version = run(program / "fluxcube", "--version", cwd=empty).strip()
    assert version.endswith(json.loads(run(program / "python", SMOKE, "version", cwd=empty))), version
    run(program / "python", SMOKE, "all", cwd=empty)


def main() -> None:
    """Build, check and try the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="*", default=list(VERSIONS), help="versions to try, of those that are found")
    found = dict(pythons(parser.parse_args().python))
    wheel, sdist = build()
    check_wheel(wheel)
    check_sdist(sdist)
    print(f"built and checked {wheel.name} ({wheel.stat().st_size / 1e6:.0f} MB) and {sdist.name}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        here = "{}.{}".format(*sys.version_info)
        for version, python in ((v, p) for v, p in found.items() if v != here):
            try_it(environment(folder / version, python, str(wheel)), folder / f"empty-{version}")
            print(f"Python {version}: the wheel alone works", flush=True)
        try_it(environment(folder / "sdist", sys.executable, str(sdist)), folder / "empty-sdist")
        print(f"Python {here}: the sdist alone works", flush=True)
        program = environment(folder / "full", sys.executable, f"{wheel}[{EXTRAS}]")
        (folder / "demo").mkdir()
        run(program / "fluxcube", "demo", "--quick", "--out", "demo", cwd=folder / "demo")
        print(f"Python {here}: the quick demo works", flush=True)


if __name__ == "__main__":
    main()
