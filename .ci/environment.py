"""Set up ``.venv`` in the checkout: the project's dependencies, and those of the extras named.

``python3 .ci/environment.py [EXTRA ...]``. Only dependencies are installed. The project itself
is imported from the checkout, and Twisted finds the plugins in its ``twisted/plugins``. Quick, and
without network, when nothing is missing.
"""

import configparser
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"


def main(extras: list[str]) -> None:
    """Bring ``.venv`` to what ``setup.cfg`` asks for, one process at a time."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python gets here, too
        sys.exit(f"qpsmtpd needs Python 3.11 or newer; {sys.executable} is older.")
    requirements = read_requirements(extras)
    checkout = os.open(CHECKOUT, os.O_RDONLY)
    try:
        fcntl.flock(checkout, fcntl.LOCK_EX)
        set_up(requirements, VENV / f"installed-{'-'.join(['base', *extras])}")
    finally:
        os.close(checkout)


def read_requirements(extras: list[str]) -> list[str]:
    """What ``setup.cfg`` asks for."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    lists = [setup["options"]["install_requires"]]
    lists += [setup["options.extras_require"][extra] for extra in extras]
    return [line.strip() for text in lists for line in text.splitlines() if line.strip()]


def set_up(requirements: list[str], stamp: Path) -> None:
    """Install the requirements, unless the stamp says that they are in place."""
    # An environment is bound to its folder and to the version of Python.
    facts = [str(VENV), "{}.{}".format(*sys.version_info), *requirements]
    wanted = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and PYTHON.exists():
        return
    print("Setting up .venv (once) ...", file=sys.stderr, flush=True)
    if not usable():
        create()
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    if subprocess.run([*pip, *requirements], stdin=subprocess.DEVNULL).returncode:
        sys.exit("pip did not install the dependencies; what it said is above.")
    [packages] = VENV.glob("lib/python*/site-packages")
    # The checkout comes after the packages on the path, so its twisted/ cannot hide Twisted.
    (packages / "qpsmtpd-checkout.pth").write_text(os.path.relpath(CHECKOUT, packages) + "\n")
    stamp.write_text(wanted)


def usable() -> bool:
    """Whether ``.venv`` is whole, lies where it was made, and has this version of Python."""
    here = "import sys, pip; print(sys.prefix, *sys.version_info[:2], sep='\\n')"
    wanted = f"{VENV}\n{sys.version_info[0]}\n{sys.version_info[1]}\n"
    activate = VENV / "bin" / "activate"  # one of the files that know their folder
    if not PYTHON.exists() or not activate.is_file() or str(VENV) not in activate.read_text():
        return False
    answer = subprocess.run([PYTHON, "-c", here], capture_output=True, text=True)
    return answer.stdout == wanted


def create() -> None:
    """Create ``.venv`` anew; Debian has what it takes in a package of its own."""
    if not has_ensurepip():
        install_venv()
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", VENV], stdout=sys.stderr)
    if made.returncode:
        sys.exit("The virtual environment could not be created; what venv said is above.")


def has_ensurepip() -> bool:
    """Ask a fresh interpreter: this one would not notice a package installed meanwhile."""
    asked = [sys.executable, "-c", "import ensurepip, venv"]
    return subprocess.run(asked, capture_output=True).returncode == 0


def install_venv() -> None:
    """Install Debian's ``python3-venv``, where root may, or say who has to."""
    if os.geteuid() or not shutil.which("apt-get"):
        sys.exit("Python's venv is missing: run `apt-get install python3-venv` as root.")
    print("Installing python3-venv from Debian ...", file=sys.stderr, flush=True)
    apt = ["apt-get", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "python3-venv"]):
        done = subprocess.run(
            [*apt, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            sys.exit(f"{done.stdout}apt-get did not install python3-venv; it says why above.")
    if not has_ensurepip():
        sys.exit(f"{sys.executable} has no ensurepip; run this with Debian's /usr/bin/python3.")


if __name__ == "__main__":
    main(sys.argv[1:])
