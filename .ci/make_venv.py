"""
Make a virtual environment with pip in it, also on a Debian that has no python3-venv.

The idea: Debian's Python can make an environment without pip, and Debian's package of the pip
wheel needs no installation to be run. So nothing but Python itself has to be there.
Usage: make_venv.py FOLDER
"""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.sandbox import SandboxUnavailable
from engine.sandbox.debian import Bundle

PIP = Bundle("pip", "bookworm", ("python3-pip-whl",), 20)


def main(folder: Path) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = importlib.util.find_spec("ensurepip")
    has_ensurepip = found is not None and found.origin is not None
    venv.create(folder, with_pip=has_ensurepip, symlinks=True, clear=True)
    if has_ensurepip:
        return 0
    try:
        wheel = next(PIP.root().glob("usr/share/python-wheels/pip-*.whl"))
    except SandboxUnavailable as error:
        print(f"this Python cannot make environments with pip in them ({error})", file=sys.stderr)
        print("on Debian or Ubuntu: apt-get install python3-venv", file=sys.stderr)
        return 1
    python = folder / "bin" / "python"
    command = [python, wheel / "pip", "install", "--quiet", "--disable-pip-version-check", "pip"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
