#!/usr/bin/env bash
# The peers' Python libraries, pinned, in .deps/peers (about 5 GB). Quiet when they are there. HONE_PEERS=DIR names a virtual environment
# that has them already. `peers.sh ppo` also fetches TRL 1.12.0, the last with PPO, into .deps/trl-1.12.0, for bench/run_peers.py --techniques ppo.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = ppo ]; then
  "$0"
  [ -e .deps/trl-1.12.0/trl ] || .deps/peers/bin/pip install --quiet --disable-pip-version-check --no-deps --target .deps/trl-1.12.0 trl==1.12.0
  exit 0
fi
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
