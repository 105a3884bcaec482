#!/bin/sh
# Build the native engine with a sanitizer and run its tests on it.
#
#   scripts/sanitize.sh address     AddressSanitizer and UndefinedBehaviorSanitizer: tests of native code that need no torch
#   scripts/sanitize.sh thread      ThreadSanitizer: the tests that share an engine between threads
#   scripts/sanitize.sh address tests/runtime/test_features.py     only these tests
#
# The build goes to a folder of its own; the installed extension is not touched.
set -eu

kind=${1:-address}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- tests/runtime/test_native.py tests/runtime/test_features.py tests/runtime/test_search.py
case $kind in
address) flags=address,undefined library=libasan.so tests="not torchaudio and not kaldi" ;;
thread) flags=thread library=libtsan.so tests="threads or whole_networks" ;;
*)
    echo "sanitize.sh: '$kind' is unknown; choose address or thread" >&2
    exit 2
    ;;
esac

python=${PYTHON:-python3}
case $python in /*) ;; */*) python=$PWD/$python ;; esac  # the build is elsewhere
compiler=${CXX:-g++}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for part in asr_compress tests setup.py setup.cfg pyproject.toml README.md LICENSE; do cp -R "$here/$part" "$work"; done
cd "$work"
find asr_compress -name '_native*.so' -exec rm {} +
ASR_COMPRESS_SANITIZE=$flags CXX=$compiler "$python" setup.py -q build_ext --inplace

# The sanitizer must be the first library of the process. Python itself frees little before it ends, so leaks are
# looked for by tests/runtime/test_soak.py instead; its allocator would hide overruns of small objects.
# It looks up what throws exceptions when it starts, so the C++ library must be there too.
export LD_PRELOAD="$("$compiler" -print-file-name="$library") $("$compiler" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:suppressions="$work/quiet.txt" PYTHONMALLOC=malloc OMP_NUM_THREADS=1
# Libraries that were not built with the sanitizer: what they do between themselves is not ours to check. So it does
# not see the interpreter's lock either, which is what guards reference counts.
printf 'called_from_lib:libpython\ncalled_from_lib:_multiarray_umath\nrace:libopenblas\n' >"$work/quiet.txt"
printf 'race:Py_INCREF\nrace:Py_DECREF\n' >>"$work/quiet.txt"
"$python" -m pytest -q --capture=sys -p no:cacheprovider -k "$tests" "$@"
echo "sanitize.sh: nothing found ($flags)"
