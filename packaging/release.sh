#!/usr/bin/env bash
# Set a version, check everything, build the package, commit and tag; nothing is uploaded.
#
#     packaging/release.sh 0.2.0
#
# CHECKS is the command that must pass; RELEASE_BRANCH the branch from which releases are made.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-}
checks=${CHECKS:-.ci/run}
branch=${RELEASE_BRANCH:-main}
python=${PYTHON:-.venv/bin/python}

refuse() {
  echo "release: $1" >&2
  exit 1
}

[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] ||
  refuse "expected a version of three numbers, found '$version': make release VERSION=0.2.0"
[[ -z $(git status --porcelain) ]] || refuse "there are uncommitted changes: commit or stash them (git status)"
[[ $(git branch --show-current) == "$branch" ]] ||
  refuse "this is the branch '$(git branch --show-current)', releases are made from '$branch': git switch $branch"
git rev-parse -q --verify "refs/tags/v$version" >/dev/null && refuse "the tag v$version exists: choose the next version"
entries=$(awk '/^## Unreleased/ {on = 1; next} /^## / {on = 0} on && /^- /' CHANGELOG.md)
[[ -n $entries ]] || refuse "CHANGELOG.md has no entry under '## Unreleased': state what changed since the last version"

today=$(date -u +%F)
restore() { git checkout -q -- fluxcube/__init__.py CITATION.cff CHANGELOG.md; }
trap restore ERR
sed -i "s/^__version__ = .*/__version__ = \"$version\"/" fluxcube/__init__.py
sed -i "s/^version: .*/version: $version/; s/^date-released: .*/date-released: $today/" CITATION.cff
sed -i "s/^## Unreleased\$/## Unreleased\n\n## $version - $today/" CHANGELOG.md
bash -c "$checks" || { restore; refuse "$checks failed: mend it, then run the same command again"; }
rm -rf dist
"$python" -m build --no-isolation --outdir dist .
"$python" -m twine check --strict dist/*
git commit -qam "Release $version"
git tag -a "v$version" -m "fluxcube $version"
echo "tagged v$version; dist/ has wheel and sdist. To publish:"
echo "    git push origin $branch v$version && $python -m twine upload dist/*"
