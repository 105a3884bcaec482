#!/bin/sh
# Build the native engine for 64-bit ARM and run its tests there, emulated: NEON where no such machine is at hand.
#
#   scripts/emulate_arm.sh                                         the tests of the kernels: this takes hours
#   scripts/emulate_arm.sh tests/runtime/test_native.py -k int4    only these
#
# For Debian and its kin, with the packages qemu-user-static and g++-aarch64-linux-gnu, after
# `dpkg --add-architecture arm64 && apt-get update`. A Python for ARM is fetched into a folder of its own, not
# installed. How long all this takes says nothing about such a machine's speed.
set -eu

[ $# -gt 0 ] || set -- tests/runtime/test_native.py
for tool in qemu-aarch64-static aarch64-linux-gnu-g++ apt-get dpkg; do
    command -v "$tool" >/dev/null || {
        echo "emulate_arm.sh: $tool is missing; install qemu-user-static and g++-aarch64-linux-gnu on Debian" >&2
        exit 2
    }
done

python=${PYTHON:-python3}
case $python in /*) ;; */*) python=$PWD/$python ;; esac  # the build is elsewhere
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

mkdir "$work/packages" "$work/debian"
(
    cd "$work/packages"
    for package in "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" libc6 libstdc++6 \
        libgcc-s1 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1; do
        apt-get download -qq "$package:arm64"
        dpkg -x "$package"_*.deb "$work/debian"
    done
)
"$python" -m pip install -q --target "$work/site" --only-binary :all: --python-version "$version" \
    --implementation cp --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 numpy soundfile safetensors hypothesis pytest

for part in asr_compress tests setup.py setup.cfg pyproject.toml README.md LICENSE; do cp -R "$here/$part" "$work"; done
cd "$work"
find asr_compress -name '_native*.so' -exec rm {} +
ASR_COMPRESS_MACHINE=aarch64 CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ \
    LDSHARED='aarch64-linux-gnu-gcc -shared' LDCXXSHARED='aarch64-linux-gnu-g++ -shared' \
    "$python" setup.py -q build_ext --inplace

export PYTHONPATH="$work/site" PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
arm() { qemu-aarch64-static -cpu max -L "$work/debian" "$work/debian/usr/bin/python$version" "$@"; }
arm -c 'from asr_compress.runtime.extension import instruction_sets as sets; assert "neon" in sets(), sets()'
arm -m pytest -q -p no:cacheprovider "$@"
