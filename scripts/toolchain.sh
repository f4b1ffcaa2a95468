# shellcheck shell=bash disable=SC2034
# Sourced: chooses the compiler for the engine (llama.cpp). Sets CC, CXX, ENGINE_FLAGS (for CMake) and TOOLCHAIN
# (a line that says what was chosen and what it costs).
#
# Why not just "the system's compiler": GCC 12 miscompiles llama.cpp's AMX code, which then dies with SIGSEGV at the
# first batch of more than one token. clang 16 and later compile it well, and so does GCC 13. clang is preferred on
# every CPU, so that results are alike.

CPUINFO=${CPUINFO:-/proc/cpuinfo}

major() { "$1" -dumpversion 2>/dev/null | cut -d. -f1; }

# Whether a pair of compilers makes a C++ program with OpenMP (without it llama.cpp's threads are slower).
compiles() {
    local dir ok=1
    dir=$(mktemp -d)
    printf '#include <omp.h>\n#include <vector>\nint main() { std::vector<int> v(1); return omp_get_max_threads() < 1; }\n' >"$dir/a.cpp"
    "$1" -fopenmp "$dir/a.cpp" -o "$dir/a" >/dev/null 2>&1 && ok=0
    rm -rf "$dir"
    return $ok
}

use() {
    CC=$1 CXX=$2 TOOLCHAIN="$($1 --version | head -n 1)"
}

find_clang() {
    local suffix
    for suffix in -16 -17 -18 -19 -20 -21 ""; do
        if command -v "clang$suffix" "clang++$suffix" >/dev/null && [ "$(major "clang$suffix")" -ge 16 ] &&
            compiles "clang++$suffix"; then
            use "clang$suffix" "clang++$suffix"
            return 0
        fi
    done
    return 1
}

find_gcc() {
    local suffix
    for suffix in "" -15 -14 -13; do
        if command -v "gcc$suffix" "g++$suffix" >/dev/null && [ "$(major "gcc$suffix")" -ge "$1" ] &&
            compiles "g++$suffix"; then
            use "gcc$suffix" "g++$suffix"
            return 0
        fi
    done
    return 1
}

# The packages that bring a clang which is new enough, or nothing.
clang_packages() {
    local version
    for version in 16 17 18 19 20 21; do
        if [ -n "$(apt-cache show "clang-$version" "libomp-$version-dev" 2>/dev/null)" ]; then
            echo "clang-$version libomp-$version-dev"
            return
        fi
    done
}

# GCC before 13 is let near AMX code only with that code switched off.
leave_amx_out_if_miscompiled() {
    case $("$CC" --version | head -n 1) in *clang*) return ;; esac
    [ "$(major "$CC")" -ge 13 ] && return
    ENGINE_FLAGS="-DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"
    if grep -qw amx_tile "$CPUINFO"; then
        TOOLCHAIN="$TOOLCHAIN, without AMX: about half of this CPU's speed. For all of it: apt-get install clang-16 libomp-16-dev && rm -rf .venv && make install"
    fi
}

choose_toolchain() {
    ENGINE_FLAGS=""
    if [ -n "${CC:-}" ] && [ -n "${CXX:-}" ]; then
        use "$CC" "$CXX"
    elif ! find_clang; then
        if can_install && [ -n "$(clang_packages)" ]; then
            # shellcheck disable=SC2046
            install_packages $(clang_packages)
            find_clang || find_gcc 9
        else
            find_gcc 13 || find_gcc 9
        fi
    fi || die "no C++ compiler with OpenMP. Install one: $(as_root)apt-get install clang-16 libomp-16-dev"
    leave_amx_out_if_miscompiled
}
