"""
The one part of the build that pyproject.toml has no words for: the codecs' compiled kernels.

They are optional. Where they cannot be built everything else installs, and rows are decoded and
encoded by Python.
"""

import sysconfig

from setuptools import Extension, setup

ACCELERATORS = [
    Extension(
        name,
        [name.replace(".", "/") + ".c"],
        include_dirs=["engine/toolkit"],
        depends=["engine/toolkit/buffer.h"],
        py_limited_api=True,
        optional=True,
    )
    for name in ("sources.mysql.codec._accelerator", "sinks.postgres._accelerator")
]

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    setup()  # these Pythons have no stable ABI
else:
    setup(ext_modules=ACCELERATORS, options={"bdist_wheel": {"py_limited_api": "cp311"}})
