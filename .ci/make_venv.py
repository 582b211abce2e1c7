"""
Create a virtual environment with pip, also on a Debian without the package python3-venv.

Without python3-venv, Python creates an environment without pip. Then pip runs from the wheel in
Debian's package python3-pip-whl, which is unpacked and not installed, and installs itself.

    make_venv.py FOLDER
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
        print(f"error: this Python has no ensurepip ({error})", file=sys.stderr)
        print("what to do: on Debian or Ubuntu, apt-get install python3-venv", file=sys.stderr)
        return 1
    python = folder / "bin" / "python"
    command = [python, wheel / "pip", "install", "--quiet", "--disable-pip-version-check", "pip"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
