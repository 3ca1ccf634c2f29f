#!/bin/sh
# Build all wheels and sdists, install the wheels together in a clean environment, and prove what is in them.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
uv=${UV:-$here/.tools/bin/uv}
case $uv in /*) ;; *) uv=$here/$uv ;; esac
python=$("$here/.venv/bin/python" -c 'import sys; print(sys.base_prefix)')/bin/python3
work=$(mktemp -d "${TMPDIR:-/tmp}/cc-package.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
cd "$here"

echo "package 1/4  wheels and sdists"
rm -rf dist
for part in shared server agent; do
  "$uv" build --quiet --no-build-isolation --python .venv/bin/python --out-dir dist "$part"
done
ls dist

echo "package 2/4  the wheels in a clean environment, from the versions in uv.lock"
"$uv" export --quiet --locked --no-dev --no-emit-workspace --no-hashes --format requirements-txt >"$work/locked.txt"
"$uv" venv --quiet --python "$python" "$work/venv"
"$uv" pip install --quiet --python "$work/venv/bin/python" --constraint "$work/locked.txt" dist/*.whl
cd "$work"

echo "package 3/4  the files of each wheel are the files of its source"
for pair in shared/ccshared server/ccserver agent/ccagent; do
  name=${pair#*/}
  installed=$("$work/venv/bin/python" -c "import $name, os; print(os.path.dirname($name.__file__))")
  case $installed in "$work"/*) ;; *) echo "$name was imported from $installed, not from its wheel" >&2; exit 1 ;; esac
  diff -r --exclude=__pycache__ "$here/$pair" "$installed"
done

echo "package 4/4  the commands, from the wheels alone"
"$work/venv/bin/ccserver" --version
"$work/venv/bin/cc-agent" --version
"$work/venv/bin/python" -m ccshared.vectors "$here/tests/shared/evidence_log_v1.json" >/dev/null
env -u DATABASE_URL CCSERVER_DATA_DIR="$work/none" "$work/venv/bin/ccserver" migrate --plan >"$work/plan"
(cd "$here/migrations" && ls [0-9]*.sql) | diff - "$work/plan"
echo "package: whole"
