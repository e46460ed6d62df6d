#!/usr/bin/env bash
# Installs what hone needs: Debian packages (as root or through sudo) and LibTorch out of the PyPI torch wheel into .deps/.
# Quiet and instant when everything is there. HONE_LIBTORCH=DIR (with include/ and lib/) names an existing LibTorch instead.
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=2.11.0
packages=(g++ cmake ninja-build pkg-config python3 python3-venv nlohmann-json3-dev libyaml-cpp-dev libfmt-dev libpcre2-dev
          libutf8proc-dev libxxhash-dev libre2-dev libgmp-dev libgtest-dev libgmock-dev libbenchmark-dev clang-format)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing Debian packages: ${missing[*]}"
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup: not root and no sudo; install these packages by hand: ${missing[*]}" >&2; exit 2; }
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

[ -n "${HONE_LIBTORCH:-}" ] && exit 0
stamp=.deps/libtorch/version-$torch_version
[ -e "$stamp" ] && exit 0

echo "fetching LibTorch $torch_version (about 550 MB) into .deps/"
mkdir -p .deps
[ -x .deps/tools/bin/pip ] || python3 -m venv .deps/tools
rm -rf .deps/wheels .deps/libtorch.new
pip=(.deps/tools/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest .deps/wheels)
"${pip[@]}" --python-version 311 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 "torch==$torch_version"
# libtorch_cpu.so of this wheel is linked to these two small libraries; no GPU is used and nothing else of CUDA is fetched.
"${pip[@]}" "nvidia-cuda-runtime<14" "nvidia-cuda-cupti<14"
mkdir -p .deps/libtorch.new/lib
.deps/tools/bin/python - <<'PY'
import glob, os, zipfile
out = ".deps/libtorch.new"
for wheel in glob.glob(".deps/wheels/*.whl"):
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            base = os.path.basename(name)
            if not base:
                continue
            if name.startswith("torch/include/"):
                target = os.path.join(out, name[len("torch/"):])
            elif name in ("torch/lib/libtorch_cpu.so", "torch/lib/libc10.so") or base.startswith(("libcudart.so", "libcupti.so")):
                target = os.path.join(out, "lib", base)
            else:
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with z.open(name) as source, open(target, "wb") as sink:
                while block := source.read(1 << 22):
                    sink.write(block)
PY
rm -rf .deps/wheels .deps/libtorch
mv .deps/libtorch.new .deps/libtorch
touch "$stamp"
