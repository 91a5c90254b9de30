"""Where the programs are that tests run."""

import os
import shutil
from pathlib import Path

__all__ = ["ProgramMissingError", "find"]


class ProgramMissingError(Exception):
    """A program that the tests need is not on this machine."""


def find(name: str) -> str:
    """Find a program by its name.

    :returns: Its absolute path.
    :raises ProgramMissingError: It is not installed. A test lets this pass: what cannot be tested
        is an error, not a skip.
    """
    # Debian keeps daemons and Postfix's tools where only root's PATH looks.
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        install = Path(__file__).with_name("install")
        raise ProgramMissingError(f"{name} is not installed; run {install} as root")
    return os.path.abspath(found)
