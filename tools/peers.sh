#!/usr/bin/env bash
# The peers' Python libraries, pinned, in .deps/peers (about 5 GB). Quiet when they are there. HONE_PEERS=DIR names a virtual environment
# that has them already.
set -euo pipefail
cd "$(dirname "$0")/.."
requirements=tests/peers/requirements.txt
stamp=.deps/peers/requirements-$(sha256sum <"$requirements" | cut -c1-16)
[ -e "$stamp" ] && exit 0
if [ -n "${HONE_PEERS:-}" ]; then
  [ -x "$HONE_PEERS/bin/python" ] || { echo "peers: HONE_PEERS=$HONE_PEERS has no bin/python" >&2; exit 2; }
  mkdir -p .deps
  [ -L .deps/peers ] || rm -rf .deps/peers
  ln -sfn "$HONE_PEERS" .deps/peers
  exit 0
fi
echo "fetching the peers' Python libraries (about 5 GB) into .deps/peers"
rm -rf .deps/peers
mkdir -p .deps
python3 -m venv .deps/peers
.deps/peers/bin/pip install --quiet --disable-pip-version-check --no-cache-dir -r "$requirements"
touch "$stamp"
