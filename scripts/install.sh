#!/usr/bin/env bash
# Makes .venv with the `autoglm` command: scripts/install.sh [dev]. Called by `make install` and, with `dev`, `make test`.
#   CUDA=1 or 0   build the engine with CUDA, or without (default: with, if both nvcc and a GPU are here)
#   CC, CXX       compilers to use (default: see toolchain.sh)
#   PYTHON        3.11 or newer (default: the first that is found)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'install: %s\n' "$*" >&2 && exit 1; }
as_root() { [ "$(id -u)" = 0 ] || printf 'sudo '; }

APT_LISTS_ARE_NEW=
can_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    [ -n "$APT_LISTS_ARE_NEW" ] || apt-get update -qq >&2 || return 1
    APT_LISTS_ARE_NEW=1
}

install_packages() {
    can_install || die "missing: $*. Install them: $(as_root)apt-get install $*"
    say "Installing $* (Debian packages)"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null </dev/null ||
        die "apt-get install $* failed"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            PYTHON=$candidate
            return
        fi
    done
    install_packages python3 python3-venv
    PYTHON=/usr/bin/python3
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed; set PYTHON"
}

wants_cuda() {
    case ${CUDA:-auto} in
    1) command -v nvcc >/dev/null || die "CUDA=1, but there is no nvcc. Install the CUDA toolkit, or put it on PATH" ;;
    0) return 1 ;;
    auto)
        command -v nvcc >/dev/null && ls /dev/nvidiactl /dev/nvgpu /dev/nvhost-gpu >/dev/null 2>&1 || return 1
        say "A GPU and nvcc are here: the engine is built with CUDA (CUDA=0 leaves it out)"
        ;;
    *) die "CUDA must be 0, 1 or auto" ;;
    esac
}

# From the build's output: one line that counts on a terminal, every twentieth step otherwise.
show_build() {
    local line end='\n' done=0
    [ -t 2 ] && end='\r'
    while IFS= read -r line; do
        [[ $line =~ \[([0-9]+)/([0-9]+)\] ]] || continue
        done=${BASH_REMATCH[1]}
        [ -t 2 ] || [ $((done % 20)) = 0 ] || [ "$done" = "${BASH_REMATCH[2]}" ] || continue
        printf "    compiled %3d of %d$end" "$done" "${BASH_REMATCH[2]}" >&2
    done
    if [ -t 2 ]; then printf '\n' >&2; fi
}

# pip's own cache does not know which compiler or CPU a wheel was built with, so wheels are kept by all that matters.
install_engine() {
    local pin flags key kept log
    pin=$(grep -o 'llama-cpp-python==[0-9.]*' pyproject.toml)
    flags="$ENGINE_FLAGS -DLLAVA_BUILD=OFF ${CMAKE_ARGS:-}"
    if wants_cuda; then flags="$flags -DGGML_CUDA=on"; fi
    key=$( (echo "$pin $flags" && "$CXX" --version && uname -m
        grep -m1 -E '^(flags|Features)' "$CPUINFO" || true) | sha256sum | cut -c1-16)
    kept=${XDG_CACHE_HOME:-$HOME/.cache}/autoglm/engine/$key
    if ! ls "$kept"/*.whl >/dev/null 2>&1; then
        say "Building llama.cpp for this CPU with $TOOLCHAIN: some minutes, once"
        mkdir -p "$kept"
        log=$kept/build.log
        CC=$CC CXX=$CXX CMAKE_ARGS=$flags .venv/bin/pip wheel -v --no-cache-dir --no-deps \
            --no-binary llama-cpp-python --wheel-dir "$kept" "$pin" 2>&1 </dev/null | tee "$log" | show_build ||
            die "the build failed; its end was: $(tail -n 5 "$log"). All of it: $log"
    fi
    .venv/bin/pip install --quiet --force-reinstall --no-deps "$kept"/*.whl
    echo "$TOOLCHAIN; $flags" >.venv/engine-build
}

has_package() { .venv/bin/python -c "import importlib.metadata as m; m.version('$1')" 2>/dev/null; }

# onnxruntime with CUDA is a package of another name, in the index for x86-64 alone; both at once break each other.
install_agent() {
    local extra='[onnx]' other=onnxruntime-gpu
    if [ "$(uname -m)" = x86_64 ]; then
        if wants_cuda 2>/dev/null; then extra='[onnx-gpu]' other=onnxruntime; fi
        if has_package "$other"; then .venv/bin/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu; fi
    elif has_package onnxruntime-gpu; then
        extra='' # a Jetson's own, brought by hand
    fi
    say "Installing the agent (Python packages)"
    .venv/bin/pip install --quiet --editable ".$extra"
}

install_test_tools() {
    local missing=()
    command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || missing+=(mosquitto)
    command -v mosquitto_pub >/dev/null || missing+=(mosquitto-clients)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
    command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
    [ ${#missing[@]} = 0 ] && return
    install_packages "${missing[@]}"
    # Debian starts a fresh mosquitto on port 1883, where the agent's embedded broker wants to be.
    case " ${missing[*]} " in *" mosquitto "*) systemctl disable --now mosquitto >/dev/null 2>&1 || true ;; esac
    # The tests start a PostgreSQL and a HAProxy of their own; those that Debian starts are nobody's.
    case " ${missing[*]} " in *" postgresql "*) systemctl disable --now postgresql >/dev/null 2>&1 || true ;; esac
    case " ${missing[*]} " in *" haproxy "*) systemctl disable --now haproxy >/dev/null 2>&1 || true ;; esac
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# shellcheck source=scripts/toolchain.sh
. scripts/toolchain.sh
if [ "${1:-}" = dev ]; then
    install_test_tools
    say "Installing what the tests and checks need (Python packages)"
    .venv/bin/pip install --quiet --editable '.[dev]'
else
    find_python
    [ -x .venv/bin/python ] || { say "Making .venv with $("$PYTHON" --version)" && "$PYTHON" -m venv .venv; }
    choose_toolchain
    install_engine
    install_agent
    say "Ready: .venv/bin/autoglm, with llama.cpp by $TOOLCHAIN"
fi
