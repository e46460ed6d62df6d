#!/usr/bin/env bash
# build.sh PRESET TARGET: configures when needed and builds. Prints progress, and nothing at all when there is nothing to do.
# HONE_WERROR=ON makes warnings errors.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1 target=$2
folder=build
[ "$preset" = release ] || folder=build-$preset

options=("-DHONE_LIBTORCH=${HONE_LIBTORCH:-$PWD/.deps/libtorch}" "-DHONE_WERROR=${HONE_WERROR:-OFF}")
stamp=$folder/.configured
wanted="$preset ${options[*]:-}"
if [ ! -e "$folder/build.ninja" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "configuring $folder/"
  log=$(cmake --preset "$preset" ${options[@]+"${options[@]}"} 2>&1) || { echo "$log" >&2; exit 1; }
  echo "$wanted" >"$stamp"
fi
# A list of sources that changed makes ninja configure again by itself.
ninja -C "$folder" -j "${JOBS:-$(nproc)}" "$target" 2>&1 |
  sed -u -e '/^ninja: no work to do/d' -e '/^ninja: Entering directory/d' -e '/Re-checking globbed directories/d'
