"""Builds the native engine (charlm/native/*.cpp) with the package; everything else stands in pyproject.toml.

The engine is plain C++17 that Python loads by ctypes. The kernels are compiled once for each instruction set that the
compiler knows, and the processor is asked when charlm runs. Without a compiler the package installs all the same, and
charlm computes with torch.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("charlm/native")
# -g0 overrides the -g that Python's own CFLAGS often contain: debug information makes the library 13 times as large and
# the build almost twice as expensive.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
AVX512_BF16 = [*AVX512, "-mavx512bf16", "-mavx512vnni"]
# Which file is compiled with which options; the name becomes a macro that tells dispatch.cpp what there is.
INSTRUCTION_SETS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512_bf16": AVX512_BF16,
    "amx": [*AVX512_BF16, "-mamx-tile", "-mamx-bf16"],
}


class BuildEngine(build_ext):
    """Compiles every source with its own options; an instruction set that the compiler does not know is left out."""

    def build_extension(self, ext: Extension) -> None:
        kernels = {name: SOURCES / f"isa_{name}.cpp" for name in INSTRUCTION_SETS}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for_sets = {name: pool.submit(self._compile_set, kernels[name], name) for name in INSTRUCTION_SETS}
            for_all = [
                pool.submit(self._compile, Path(source), FLAGS) for source in ext.sources if "dispatch" not in source
            ]
            objects = [path for future in for_all for path in future.result()]
        made = {name: future.result() for name, future in for_sets.items() if future.result()}
        macros = [(f"CHARLM_HAS_{name.upper()}", "1") for name in made]
        objects += [path for paths in made.values() for path in paths]
        objects += self._compile(SOURCES / "dispatch.cpp", FLAGS, macros)
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread"], target_lang="c++"
        )

    def _compile_set(self, source: Path, name: str) -> list:
        try:
            return self._compile(source, [*FLAGS, *INSTRUCTION_SETS[name]])
        except CompileError:
            print(f"charlm: this compiler cannot make code for {name}; it is left out")
            return []

    def _compile(self, source: Path, options: list, macros: tuple = ()) -> list:
        return self.compiler.compile([str(source)], self.build_temp, macros=list(macros), extra_postargs=options)

    def get_export_symbols(self, ext: Extension) -> list:
        return []  # it is a library for ctypes, no Python module


plain = [str(path) for path in sorted(SOURCES.glob("*.cpp")) if path.stem.removeprefix("isa_") not in INSTRUCTION_SETS]
others = [str(path) for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("isa_*.cpp")])]
setup(
    ext_modules=[Extension("charlm.native.engine", plain, depends=others, optional=True)],
    cmdclass={"build_ext": BuildEngine},
)
