"""
The optional C extensions of the row codecs, which pyproject.toml cannot declare.

Where they cannot be built, everything else is installed, and plain Python decodes and encodes rows.
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
