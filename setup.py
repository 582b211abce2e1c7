"""
The one part of the build that pyproject.toml has no words for: the row decoder's compiled kernel.

It is optional. Where it cannot be built everything else installs, and rows are decoded by Python.
"""

import sysconfig

from setuptools import Extension, setup

KERNEL = Extension(
    "sources.mysql._kernel", ["sources/mysql/_kernel.c"], py_limited_api=True, optional=True
)

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    setup()  # these Pythons have no stable ABI
else:
    setup(ext_modules=[KERNEL], options={"bdist_wheel": {"py_limited_api": "cp311"}})
