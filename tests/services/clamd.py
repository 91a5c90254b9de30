"""A real clamd of the tests' own, which knows one virus: the EICAR test file."""

import atexit
import functools
import getpass
import hashlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.services.binaries import find

__all__ = ["EICAR", "SIGNATURE", "Clamd", "ClamdError", "shared"]

#: The file that every scanner reports and that harms nothing. In pieces, so that no scanner
#: reports this source.
EICAR: Final = b"".join(
    [rb"X5O!P%@AP[4\PZX54(P^)", rb"7CC)7}$", b"EICAR-STANDARD-", b"ANTIVIRUS-TEST-FILE!", b"$H+H*"]
)

#: What clamd answers for :data:`EICAR`. It appends the suffix to signatures that ClamAV's
#: authors did not sign.
SIGNATURE: Final = "Test.Eicar.UNOFFICIAL"

#: Seconds that clamd may take to answer its first PING, or to end.
PATIENCE: Final = 60


class ClamdError(Exception):
    """clamd ended, or did not answer; the text holds its log."""


class Clamd:
    """One clamd on a UNIX socket and a loopback TCP port, with its files in a temporary folder.

    It loads no other database than its own, so it starts in a moment and needs no network.

    :ivar socket_path: The UNIX socket it listens on.
    :ivar tcp_port: The port it listens on at 127.0.0.1.
    """

    def __init__(self) -> None:
        self.socket_path = ""
        self.tcp_port = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start clamd and return when it answers.

        :raises ProgramMissingError: clamd is not installed.
        :raises ClamdError: It does not come up.
        """
        assert self._folder is None, "clamd is running"
        clamd = find("clamd")
        # Debian's AppArmor profile lets clamd read and write in /tmp, whatever TMPDIR says; and
        # the path of a UNIX socket has to be short.
        self._folder = folder = Path(tempfile.mkdtemp(prefix="clamd-", dir="/tmp"))
        self.socket_path = str(folder / "clamd.socket")
        self.tcp_port = _free_port()
        self._configure(folder)
        # setpriv: a test process that is killed takes clamd with it.
        command = [find("setpriv"), "--pdeathsig", "TERM", clamd, "--foreground"]
        command += ["--config-file", str(folder / "clamd.conf")]
        try:
            with (folder / "output").open("wb") as output:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End clamd and remove its folder; nothing happens when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a suspended one would never see the other
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def suspend(self) -> None:
        """Make clamd silent without ending it: it accepts connections and answers nothing."""
        assert self._process is not None, "clamd is not running"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended clamd go on."""
        assert self._process is not None, "clamd is not running"
        self._process.send_signal(signal.SIGCONT)

    def _configure(self, folder: Path) -> None:
        database = folder / "database"
        database.mkdir()
        name = SIGNATURE.removesuffix(".UNOFFICIAL")
        # One signature for the file as it is, one for a message that contains it.
        digest = hashlib.md5(EICAR, usedforsecurity=False).hexdigest()
        (database / "eicar.hdb").write_text(f"{digest}:{len(EICAR)}:{name}\n")
        (database / "eicar.ndb").write_text(f"{name}:0:*:{EICAR.hex()}\n")
        (folder / "clamd.conf").write_text(
            f"DatabaseDirectory {database}\n"
            f"TemporaryDirectory {folder}\n"
            f"LocalSocket {self.socket_path}\n"
            "TCPAddr 127.0.0.1\n"
            f"TCPSocket {self.tcp_port}\n"
            # Whoever runs the tests: root's clamd would otherwise look for the user "clamav",
            # who may not read this folder.
            f"User {getpass.getuser()}\n"
            "StreamMaxLength 1M\n"
            "MaxThreads 4\n"
            "SelfCheck 0\n"
        )

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not self._answers():
            if process.poll() is not None:
                raise ClamdError(f"clamd ended with {process.returncode}: {self._output()}")
            # When another process took the port meanwhile, clamd goes on without it.
            if "Cannot bind" in self._output():
                raise ClamdError(f"clamd has not all of its sockets: {self._output()}")
            if time.monotonic() > give_up:
                raise ClamdError(f"no answer from clamd in {PATIENCE} s: {self._output()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Both sockets: clamd opens one after the other."""
        try:
            with (
                socket.socket(socket.AF_UNIX) as local,
                socket.create_connection(("127.0.0.1", self.tcp_port), timeout=1) as remote,
            ):
                local.settimeout(1)
                local.connect(self.socket_path)
                return _ping(local) and _ping(remote)
        except OSError:
            return False

    def _output(self) -> str:
        assert self._folder is not None
        return (self._folder / "output").read_text(errors="replace").strip()


@functools.cache
def shared() -> Clamd:
    """Start the clamd that all tests of this process use; it ends with the process.

    trial calls neither ``setUpClass`` nor ``setUpModule``, so a test asks for it in ``setUp``.
    A test that stops or suspends clamd starts one of its own.
    """
    clamd = Clamd()
    clamd.start()
    atexit.register(clamd.stop)
    return clamd


def _ping(connection: socket.socket) -> bool:
    connection.sendall(b"zPING\0")
    return connection.recv(16) == b"PONG\0"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
