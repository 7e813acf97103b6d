#!/usr/bin/env bash
# Build wheel and sdist, and try them in bare environments: without torch, from the sdist, with extras at the newest
# versions, and with all direct dependencies at their lowest. Usage: try_packages.sh UV PYTHON FOLDER
set -euo pipefail
uv=$1 python=$2 home=$3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$home"
home=$(cd "$home" && pwd)
rm -rf "$home"/dist "$home"/env-*
"$uv" build --quiet --python "$python" --out-dir "$home/dist" "$root"
wheel=$(ls "$home"/dist/*.whl) sdist=$(ls "$home"/dist/*.tar.gz)

try() { # name, requirement, options of the installer
  local env=$home/env-$1
  "$uv" venv --quiet --python "$python" "$env"
  "$uv" pip install --quiet --python "$env/bin/python" "$2" "${@:3}"
  mkdir "$env/tried"
  echo "== $1: $(find "$env/lib" -maxdepth 3 -name '*.dist-info' | wc -l) packages, $(du -sm "$env" | cut -f1) MB"
  (cd "$env/tried" && "$env/bin/python" "$root/packaging/try_wheel.py" && "$env/bin/eoaug" generators >/dev/null &&
    "$env/bin/eoaug" validate catalog)
}

try bare "$wheel"
try sdist "$sdist"
try newest "eoaug[torch,plot,netcdf] @ file://$wheel"
try lowest "eoaug[plot,netcdf] @ file://$wheel" --resolution lowest-direct
