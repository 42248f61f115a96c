#!/usr/bin/env bash
# Install torch for ROCm into the virtual environment that is active, and this package after it:
#   python3 -m venv .venv && source .venv/bin/activate && bash accelerate_configs/install_rocm.sh
# AMD's index serves wheels for many GPUs; an extra picks the kernels of one (docs/install.md names the source).
# Settings: ROCM_ARCH=gfx1151 (see `rocminfo | grep gfx`), ROCM_INDEX=URL of another index,
#   DRY_RUN=1 prints the commands and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."

arch="${ROCM_ARCH:-gfx1151}"
index="${ROCM_INDEX:-https://repo.amd.com/rocm/whl-multi-arch/}"

stop() {
    echo "error: $1" >&2
    exit 2
}

run() {
    echo "+ $*"
    if [ -z "${DRY_RUN:-}" ]; then "$@"; fi
}

[[ "$arch" =~ ^gfx[0-9a-f]+$ ]] || stop "ROCM_ARCH should look like gfx1151; found '$arch'. See rocminfo | grep gfx."
[ -n "${VIRTUAL_ENV:-}" ] || stop "expected an active virtual environment; found none. See the first lines of $0."
python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "expected Python >= 3.11; found $(python --version)."

# The pins of constraints.txt without that of torch, for which this index has a version of its own.
constraints="$(mktemp)"
trap 'rm -f "$constraints"' EXIT
grep -v '^torch==' constraints.txt > "$constraints"

# torch alone from AMD's index, which has few other packages; what torch needs comes first, from the usual one.
run python -m pip install --upgrade pip
run python -m pip install --constraint "$constraints" \
    filelock fsspec jinja2 networkx numpy setuptools sympy typing_extensions
run python -m pip install --index-url "$index" "torch[device-$arch]"
run python -m pip install --constraint "$constraints" --editable .
run python -m dinox_hf.doctor
