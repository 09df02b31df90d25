"""The compiled parts; pyproject.toml says all else.

raymill_parquet is built against the libarrow of the pyarrow that is installed where it is built, and only
runs beside that one; without a C++ compiler it is left out, and the loader says what that costs.
"""

from pathlib import Path

import pyarrow
from setuptools import Extension, setup

SOURCES = Path("platform/raymill/data")

setup(
    ext_modules=[
        Extension(
            "raymill_kernels",
            [str(SOURCES / "kernels.c")],
            py_limited_api=True,
            extra_compile_args=["-O3"],
        ),
        Extension(
            "raymill_parquet",
            [str(SOURCES / "parquet.cc")],
            depends=[str(SOURCES / name) for name in ("columns.hpp", "pages.hpp")],
            include_dirs=[pyarrow.get_include()],
            library_dirs=pyarrow.get_library_dirs(),
            # by its whole name, which carries the version: pyarrow's own import has loaded it by then
            extra_link_args=[f"-l:libarrow.so.{pyarrow.cpp_build_info.so_version}"],
            extra_compile_args=["-std=c++20", "-O3", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        ),
    ]
)
