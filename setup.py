"""Builds the native engine (charlm/native/*.cpp) with the package; everything else stands in pyproject.toml.

The engine is plain C++17 that Python loads by ctypes. The kernels are compiled once for each instruction set that the
compiler knows, and the processor is asked when charlm runs. Without a compiler the package installs all the same, and
charlm computes with torch.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("charlm/native")
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
# Which file is compiled with which options; the name becomes a macro that tells dispatch.cpp what there is.
INSTRUCTION_SETS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16", "-mavx512vnni"],
}
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]


class BuildEngine(build_ext):
    """Compiles every source with its own options; an instruction set that the compiler does not know is left out."""

    def build_extension(self, ext: Extension) -> None:
        objects, macros = [], []
        for name, options in INSTRUCTION_SETS.items():
            try:
                objects += self._compile(SOURCES / f"isa_{name}.cpp", [*FLAGS, *options], [])
                macros.append((f"CHARLM_HAS_{name.upper()}", "1"))
            except CompileError:
                print(f"charlm: this compiler cannot make code for {name}; other machines are not affected")
        for source in ext.sources:
            objects += self._compile(Path(source), FLAGS, macros)
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread"], target_lang="c++"
        )

    def _compile(self, source: Path, options: list, macros: list) -> list:
        return self.compiler.compile([str(source)], self.build_temp, macros=macros, extra_postargs=options)

    def get_export_symbols(self, ext: Extension) -> list:
        return []  # it is a library for ctypes, no Python module


plain = [str(path) for path in sorted(SOURCES.glob("*.cpp")) if path.stem.removeprefix("isa_") not in INSTRUCTION_SETS]
others = [str(path) for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("isa_*.cpp")])]
setup(
    ext_modules=[Extension("charlm.native.engine", plain, depends=others, optional=True)],
    cmdclass={"build_ext": BuildEngine},
)
