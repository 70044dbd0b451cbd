#!/usr/bin/env bash
# Pass the tests with the lowest versions of direct dependencies that pyproject.toml allows, in .venv-lowest.
#
#     packaging/lowest.sh [arguments of pytest]
#
# torch stays at the version of constraints.txt where the index has no older build for the CPU (TORCH=2.6.0 tries another).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
torch=${TORCH:-$(sed -n 's/^torch==//p' constraints.txt)}
folder=.venv-lowest
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install -q --disable-pip-version-check uv
pin=$(mktemp)
trap 'rm -f "$pin"' EXIT
echo "torch==$torch" >"$pin"
links=()
[[ -z ${PIP_FIND_LINKS:-} ]] || links=(--find-links "$PIP_FIND_LINKS")
version=$("$folder/bin/python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
uv=("$folder/bin/uv" pip)
"${uv[@]}" compile -q --python-version "$version" --resolution lowest-direct "${links[@]}" -c "$pin" \
  --extra all --extra test --no-header pyproject.toml -o "$folder/lowest.txt"
"${uv[@]}" install -q --compile-bytecode --python "$folder/bin/python" "${links[@]}" -r "$folder/lowest.txt"
"${uv[@]}" install -q --python "$folder/bin/python" --no-deps -e .
OMP_NUM_THREADS=1 "$folder/bin/python" -m pytest -n 2 --assert=plain -W default "$@"
