"""Builds the native engine, asr_compress.runtime._native. Everything else is in setup.cfg.

The extension is optional: where it cannot be compiled the package still installs, and runs on numpy.
"""

import os
import platform
import subprocess
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("asr_compress") / "runtime" / "native"
FLAGS = [
    "-std=c++17",
    "-O3",
    "-Wall",
    "-Wextra",
    "-ffp-contract=off",  # every float operation rounded by itself: what makes all instruction sets agree
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-g0",
]
# GCC warns about its own AVX-512 headers.
KERNEL_FLAGS = ["-fno-trapping-math", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unknown-pragmas"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
AMX = ["-mamx-tile", "-mamx-int8"]  # GCC 11 and newer, Clang 12; the file is empty without
AVX_VNNI = ["-mavxvnni"]  # likewise
# Only these files may use more than the baseline; dispatch.cpp asks the machine before it calls into them.
FILE_FLAGS = {
    "x86_64": {
        "kernels_amx.cpp": AVX512 + AMX,
        "kernels_avx512.cpp": AVX512,
        "kernels_avxvnni.cpp": ["-mavx2", "-mfma", *AVX_VNNI],
        "kernels_avx2.cpp": ["-mavx2", "-mfma"],
    },
    "aarch64": {"kernels_neon.cpp": ["-march=armv8.2-a+dotprod"]},
}
# For scripts/emulate_arm.sh, which compiles for another machine.
MACHINE = os.environ.get("ASR_COMPRESS_MACHINE", platform.machine()).lower()
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(MACHINE, MACHINE)
# For scripts/sanitize.sh: "address,undefined" or "thread".
SANITIZE = os.environ.get("ASR_COMPRESS_SANITIZE", "")


class BuildKernels(build_ext):
    """Compiles each file of kernels with the flags of its own instruction set."""

    def build_extension(self, ext: Extension) -> None:
        compile_one = self.compiler._compile
        unknown = [flag for flags in (AMX, AVX_VNNI) if not self._compiles_with(flags) for flag in flags]

        def compile_with_flags(obj, source, extension, options, extra, definitions):
            name = Path(source).name
            flags = FILE_FLAGS.get(MACHINE, {}).get(name, [])
            extra = [*extra, *(flag for flag in flags if flag not in unknown)]
            if name.startswith("kernels_"):
                extra += KERNEL_FLAGS
                # Guarding each vector on the stack of the unrolled kernels takes the compiler minutes.
                extra += ["--param", "asan-stack=0"] if "address" in SANITIZE else []
            return compile_one(obj, source, extension, options, extra, definitions)

        if hasattr(self.compiler, "_compile"):
            self.compiler._compile = compile_with_flags
        super().build_extension(ext)

    def _compiles_with(self, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.cpp"
            source.write_text("\n")
            command = [*getattr(self.compiler, "compiler_so", []), *flags, "-c", str(source), "-o", f"{source}.o"]
            try:
                return subprocess.run(command, capture_output=True, check=False).returncode == 0
            except OSError:
                return False


sanitize_flags = [f"-fsanitize={SANITIZE}", "-g", "-O1", "-fno-omit-frame-pointer"] if SANITIZE else []
setup(
    ext_modules=[
        Extension(
            "asr_compress.runtime._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.cpp")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            extra_compile_args=FLAGS + sanitize_flags,
            extra_link_args=["-pthread", *sanitize_flags],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            language="c++",
            optional=not SANITIZE,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
