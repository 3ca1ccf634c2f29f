#!/bin/sh
# Build all wheels and sdists, install the wheels together in a clean environment, prove what is in them, and build
# the Debian packages.
set -eu
unset PYTHONPATH
here=$(cd "$(dirname "$0")/.." && pwd)
uv=${UV:-$here/.tools/bin/uv}
case $uv in /*) ;; *) uv=$here/$uv ;; esac
python=$("$here/.venv/bin/python" -c 'import sys; print(sys.base_prefix)')/bin/python3
work=$(mktemp -d "${TMPDIR:-/tmp}/cc-package.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
cd "$here"

echo "package 1/5  wheels and sdists"
rm -rf dist
for part in shared server agent; do
  "$uv" build --quiet --no-build-isolation --python .venv/bin/python --out-dir dist "$part"
done
ls dist

echo "package 2/5  the wheels in a clean environment, from the versions in uv.lock"
"$uv" export --quiet --locked --no-dev --no-emit-workspace --no-hashes --format requirements-txt >"$work/locked.txt"
"$uv" venv --quiet --python "$python" "$work/venv"
"$uv" pip install --quiet --python "$work/venv/bin/python" --constraint "$work/locked.txt" dist/*.whl
cd "$work"

echo "package 3/5  the files of each wheel are the files of its source"
for pair in shared/ccshared server/ccserver agent/ccagent; do
  name=${pair#*/}
  installed=$("$work/venv/bin/python" -c "import $name, os; print(os.path.dirname($name.__file__))")
  case $installed in "$work"/*) ;; *) echo "$name was imported from $installed, not from its wheel" >&2; exit 1 ;; esac
  diff -r --exclude=__pycache__ "$here/$pair" "$installed"
done

echo "package 4/5  the commands, from the wheels alone"
"$work/venv/bin/ccserver" --version
"$work/venv/bin/cc-agent" --version
"$work/venv/bin/python" -m ccshared.vectors "$here/tests/shared/evidence_log_v1.json" >/dev/null
env -u DATABASE_URL CCSERVER_DATA_DIR="$work/none" "$work/venv/bin/ccserver" migrate --plan >"$work/plan"
(cd "$here/migrations" && ls [0-9]*.sql) | diff - "$work/plan"
echo "package 5/5  Debian packages that bring their own Python, each built twice and the same bytes"
if command -v dpkg-deb >/dev/null && command -v apt-get >/dev/null; then
  (cd "$here" && UV=$uv .venv/bin/python packaging/debs.py dist dist)
elif [ -n "${CI:-}" ]; then
  echo "there is no dpkg-deb or apt-get here" >&2; exit 1
else
  echo "left out: there is no dpkg-deb or apt-get here"
fi
echo "package: whole"
