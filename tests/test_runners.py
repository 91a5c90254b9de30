"""What runs the server: super-servers, supervisors and systemd, all for real.

The scripts and units of ``docs/examples`` are those that run here.
"""

import os
import pwd
import re
import shlex
import shutil
import signal
import smtplib
import socket
import ssl
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.passwords import hash_password
from tests.server.certificates import write_certificate
from tests.server.processes import LIMIT, PYTHON, TWISTD, Server, connect, run, until
from tests.services.binaries import find

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"

#: Nothing of this machine's configuration is read.
NOWHERE = {"QMAIL": "/nowhere", "QPSMTPD_CONFIG": ""}


def free_port() -> int:
    """A port that nobody listens on, for programs that cannot choose one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class RunnerTestCase(SynchronousTestCase):
    """Has a configuration and a folder of programs."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        certificate, key = write_certificate(str(self.folder), "mail.example")
        self.configure("me", "mail.example")
        self.configure("rcpthosts", "example.com")
        self.configure("databytes", "20000")
        self.configure("loglevel", "6")
        self.configure("flat_auth_pw", f"joe@example.com:{hash_password(b'secret')}")
        self.configure(
            "plugins",
            f"tls {certificate} {key}\nauth/auth_flat_file\nbadmailfrom\nrcpt_ok\n"
            f"queue/maildir {self.folder}/Maildir",
        )
        self.configure("badmailfrom", "spammer@example.org")

    def configure(self, name: str, text: str) -> None:
        (self.folder / "config").mkdir(exist_ok=True)
        (self.folder / "config" / name).write_text(text + "\n")

    def programs(self, *names: str) -> Mapping[str, str]:
        """An environment whose PATH has these programs of the system, and ours."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name in ("mkdir", "id", *names):
            if not (folder / name).exists():
                (folder / name).symlink_to(find(name))
        for name, command in (
            ("qpsmtpd", [*PYTHON, "-m", "qpsmtpd"]),
            ("qpsmtpd-forkserver", [*PYTHON, "-m", "qpsmtpd", "forkserver"]),
        ):
            script = folder / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
            script.chmod(0o755)
        return {**NOWHERE, "PATH": str(folder)}

    def service(self, name: str, settings: Mapping[str, str]) -> Path:
        """A folder of services with one, from an example, with its log service."""
        services = self.folder / "services"
        shutil.copytree(EXAMPLES / name, services / "qpsmtpd")
        if not (services / "qpsmtpd" / "log").exists():
            shutil.copytree(EXAMPLES / "supervise" / "log", services / "qpsmtpd" / "log")
        lines = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
        (services / "qpsmtpd" / "conf").write_text("\n".join(lines) + "\n")
        return services

    def supervised(self, port: int) -> Path:
        user = pwd.getpwuid(os.getuid()).pw_name
        options = f"--listen-address 127.0.0.1 --port {port} --limit-connections 15"
        return self.service(
            "supervise",
            {
                "config": str(self.folder / "config"),
                "state": str(self.folder / "state"),
                "options": f"{options} --user {user}",
            },
        )

    def listening(self, port: int) -> None:
        """Wait until somebody listens."""

        def found() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), LIMIT).close()
            except ConnectionRefusedError:
                return False
            return True

        until(found, lambda: f"nobody listens on {port}")


class Client:
    """Says lines, and writes down what is answered."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT)
        self._stream = self._socket.makefile("rb")
        self.transcript: list[str] = []

    def reply(self) -> None:
        while True:
            line = self._stream.readline().decode()
            self.transcript.append(f"S: {line.rstrip()}")
            if line[3:4] != "-":
                return

    def say(self, text: str, replies: int = 1) -> None:
        self.transcript.append(f"C: {text}")
        self._socket.sendall(text.encode() + b"\r\n")
        for _ in range(replies):
            self.reply()

    def start_tls(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._stream.close()
        self._socket = context.wrap_socket(self._socket)
        self._stream = self._socket.makefile("rb")

    def end(self) -> list[str]:
        """Read until the server closes, and close."""
        self.transcript += [f"S: {line.decode().rstrip()}" for line in self._stream]
        self.transcript.append("closed")
        self._stream.close()
        self._socket.close()
        return self.transcript


def transcript(port: int) -> list[str]:
    """What is said in some sessions that between them use most of what there is."""
    letter = "Subject: x\r\n\r\nhello\r\n."
    said: list[str] = []
    for lines in (
        [
            "EHLO client.example",
            "MAIL FROM:<a@example.org>",
            "RCPT TO:<b@elsewhere.example>",
            "RCPT TO:<b@example.com>",
            "DATA",
            letter,
            "RSET",
            "NOOP",
            "VRFY b",
            "HELP",
        ],
        ["HELO client.example", "MAIL FROM:<spammer@example.org>", "RCPT TO:<b@example.com>"],
        ["MAIL FROM:<a@example.org>", "NONSENSE", "EHLO", "DATA", "RCPT TO:<b@example.com>"],
        [
            "EHLO client.example",
            "MAIL FROM:<a@example.org> SIZE=30000",
            "MAIL FROM:<a@example.org>",
            "RCPT TO:<b@example.com>",
            "DATA",
            "x" * 70 + ("\r\n" + "x" * 70) * 400 + "\r\n.",
        ],
    ):
        client = Client(port)
        client.reply()
        for line in lines:
            client.say(line)
        client.say("QUIT", 0)
        said += client.end()
    client = Client(port)
    client.reply()
    client.say("EHLO client.example")
    client.say("STARTTLS")
    client.start_tls()
    client.say("EHLO client.example")
    client.say("AUTH PLAIN AGpvZUBleGFtcGxlLmNvbQB3cm9uZw==")
    client.say("AUTH PLAIN AGpvZUBleGFtcGxlLmNvbQBzZWNyZXQ=")
    client.say("MAIL FROM:<a@example.org>\r\nRCPT TO:<c@elsewhere.example>\r\nDATA", 3)
    client.say(letter)
    client.say("QUIT", 0)
    return said + client.end()


class TranscriptTests(RunnerTestCase):
    def under_twistd(self) -> list[str]:
        listen = ["--listen", "tcp:0:interface=127.0.0.1"]
        command = [*TWISTD, "-n", "--pidfile=", "qpsmtpd", "--config", "config", *listen]
        server = Server(self, command, self.folder, NOWHERE)
        try:
            return transcript(server.port())
        finally:
            server.stop()

    def under_tcpserver(self) -> list[str]:
        port = free_port()
        command = [find("tcpserver"), "-HR", "-l0", "127.0.0.1", str(port)]
        environ = {**NOWHERE, "QPSMTPD_CONFIG": str(self.folder / "config")}
        Server(self, [*command, *PYTHON, "-m", "qpsmtpd"], self.folder, environ)
        self.listening(port)
        return transcript(port)

    def under_runit(self) -> list[str]:
        port = free_port()
        environ = self.programs("runsv", "svlogd")
        services = self.supervised(port)
        Server(self, [find("runsvdir"), str(services)], self.folder, environ)
        self.listening(port)
        return transcript(port)

    def under_systemd(self, *how: str, command: Sequence[str]) -> list[str]:
        port = free_port()
        activate = [find("systemd-socket-activate"), *how, "--listen", f"127.0.0.1:{port}"]
        for name, value in {
            "PATH": os.environ["PATH"],
            **NOWHERE,
            "QPSMTPD_CONFIG": str(self.folder / "config"),
        }.items():
            activate += ["--setenv", f"{name}={value}"]
        server = Server(self, [*activate, *command], self.folder)
        server.wait_for(rf"Listening on 127\.0\.0\.1:{port}")
        return transcript(port)

    def test_same(self) -> None:
        """Sessions are alike under twistd, tcpserver, runit and systemd, in both its ways."""
        wanted = self.under_twistd()
        codes = {line[3:6] for line in wanted if line.startswith("S: ")}
        expected = {"220", "221", "235", "250", "252", "354", "500", "501", "503", "535", "550"}
        self.assertEqual(expected - codes, set(), wanted)
        self.assertIn("552", codes)
        self.assertEqual(wanted.count("closed"), 5)
        self.assertEqual(self.under_tcpserver(), wanted)
        self.assertEqual(self.under_runit(), wanted)
        twistd = [*TWISTD, "-n", "--pidfile=", "qpsmtpd", "--listen"]
        by_name = self.under_systemd(
            "--fdname=smtp", command=[*twistd, "systemd:domain=INET:name=smtp"]
        )
        self.assertEqual(by_name, wanted)
        inetd = self.under_systemd(
            "--accept", "--inetd", command=[*PYTHON, "-m", "qpsmtpd", "stdio"]
        )
        self.assertEqual(inetd, wanted)
        new = list((self.folder / "Maildir" / "new").iterdir())
        self.assertEqual(len(new), 2 * 5)


class InetdTests(RunnerTestCase):
    def test_xinetd(self) -> None:
        """Under xinetd the client is the socket's peer, and sees nothing of the log."""
        port = free_port()
        script = self.folder / "qpsmtpd"
        arguments = [*PYTHON, "-m", "qpsmtpd", "stdio", "--config", str(self.folder / "config")]
        script.write_text(f"#!/bin/sh\ncd {self.folder}\nexec {shlex.join(arguments)}\n")
        script.chmod(0o755)
        self.configure("loglevel", "7")
        configuration = self.folder / "xinetd.conf"
        configuration.write_text(
            f"""\
service qpsmtpd
{{
    type        = UNLISTED
    bind        = 127.0.0.1
    port        = {port}
    socket_type = stream
    protocol    = tcp
    wait        = no
    user        = {pwd.getpwuid(os.getuid()).pw_name}
    server      = {script}
    disable     = no
}}
"""
        )
        command = [find("xinetd"), "-dontfork", "-f", str(configuration)]
        environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
        Server(self, [*command, "-pidfile", str(self.folder / "pid")], self.folder, environ)
        self.listening(port)
        said = transcript(port)
        self.assertIn("S: 250-mail.example Hi Unknown [127.0.0.1]", said)
        self.assertEqual(said.count("closed"), 5)
        self.assertEqual(len(list((self.folder / "Maildir" / "new").iterdir())), 2)


class SupervisionTests(RunnerTestCase):
    """The service of ``docs/examples/supervise`` with its log."""

    def supervise(self, *command: str, programs: Sequence[str]) -> tuple[Server, Path, int]:
        port = free_port()
        environ = self.programs(*programs)
        services = self.supervised(port)
        server = Server(self, [find(command[0]), *command[1:], str(services)], self.folder, environ)
        self.listening(port)
        return server, services / "qpsmtpd", port

    def check_log(self, service: Path, port: int) -> None:
        """A session's line is in log/main/current, once, and behind a time stamp."""
        current = service / "log" / "main" / "current"
        with connect(port) as client:
            client.sendmail("a@example.org", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")

        def logged() -> list[str]:
            if not current.exists():
                return []
            lines = current.read_text().splitlines()
            return [line for line in lines if "example.com in rcpthosts" in line]

        until(logged, lambda: current.read_text() if current.exists() else "no log")
        lines = current.read_text().splitlines()
        self.assertEqual(len([line for line in lines if "Listening on" in line]), 1, lines)
        self.assertEqual(len(logged()), 1, lines)
        for line in lines:
            self.assertRegex(line, r"^@4[0-9a-f]{23} ")

    def check_restart(self, port: int, pid: int) -> None:
        """A server that dies is started again."""
        os.kill(pid, signal.SIGKILL)

        def served() -> bool:
            try:
                with connect(port) as client:
                    return client.noop()[0] == 250
            except OSError:  # the old one, or nobody yet
                return False

        until(served, lambda: "it is not started again")

    def test_runit(self) -> None:
        """Under runit it serves, logs, is started again, and ends when it is told to."""
        server, service, port = self.supervise("runsvdir", programs=["runsv", "svlogd"])
        self.check_log(service, port)
        self.check_restart(port, int((service / "supervise" / "pid").read_text()))
        run([find("sv"), "-w", "50", "force-stop", str(service)], self.folder)
        with self.assertRaises(ConnectionRefusedError):
            connect(port)
        run([find("sv"), "exit", str(service)], self.folder)
        server.signal(signal.SIGHUP)
        server.wait()

    def test_daemontools(self) -> None:
        """Under supervise with multilog, too."""
        _, service, port = self.supervise("svscan", programs=["supervise", "multilog"])
        self.check_log(service, port)
        status = run([find("svstat"), str(service)], self.folder)
        found = re.search(r"pid (\d+)", status)
        assert found is not None, status
        self.check_restart(port, int(found[1]))
        run([find("svc"), "-d", str(service)], self.folder)

        def stopped() -> bool:
            return ": down" in run([find("svstat"), str(service)], self.folder)

        until(stopped, lambda: "it does not stop")

    def test_s6(self) -> None:
        """And under s6."""
        programs = ["s6-supervise", "s6-log"]
        server, service, port = self.supervise("s6-svscan", programs=programs)
        self.check_log(service, port)
        found = run([find("s6-svstat"), "-p", str(service)], self.folder)
        self.check_restart(port, int(found))
        server.stop()

    def test_tcpserver(self) -> None:
        """The service of ``docs/examples/tcpserver`` serves with the rules for its clients."""
        port = free_port()
        environ = self.programs("runsv", "svlogd", "tcpserver")
        (self.folder / "rules").write_text('127.0.0.1:allow,RELAYCLIENT=""\n:deny\n')
        compiled = self.folder / "rules.cdb"
        command = f"{shlex.quote(find('tcprules'))} rules.cdb rules.tmp <rules"
        run(["/bin/sh", "-c", command], self.folder)
        plugins = self.folder / "config" / "plugins"
        plugins.write_text("relay\n" + plugins.read_text())
        services = self.service(
            "tcpserver",
            {
                "address": "127.0.0.1",
                "port": str(port),
                "user": pwd.getpwuid(os.getuid()).pw_name,
                "rules": f"-x {compiled} -H -l0",
                "QPSMTPD_CONFIG": str(self.folder / "config"),
            },
        )
        Server(self, [find("runsvdir"), str(services)], self.folder, environ)
        self.listening(port)
        with connect(port) as client:
            client.sendmail("a@example.org", ["b@elsewhere.example"], "Subject: x\r\n\r\nx\r\n")
        current = services / "qpsmtpd" / "log" / "main" / "current"

        def logged() -> bool:
            return current.exists() and "tcpserver: status: 1/10" in current.read_text()

        until(logged, lambda: current.read_text() if current.exists() else "no log")


class UnitTests(SynchronousTestCase):
    """The units of ``docs/examples/systemd``."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qpsmtpd-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.units: list[str] = []
        for unit in (EXAMPLES / "systemd").iterdir():
            text = unit.read_text().replace("/usr/bin/twistd", "/bin/true")
            text = text.replace("User=smtpd", "User=mail")
            (self.folder / unit.name).write_text(text)
            self.units.append(str(self.folder / unit.name))

    def test_verify(self) -> None:
        """systemd finds nothing to say against them."""
        said = run([find("systemd-analyze"), "verify", "--man=no", *self.units], self.folder)
        about = [line for line in said.splitlines() if "qpsmtpd" in line]
        self.assertEqual(about, [])

    def test_security(self) -> None:
        """systemd thinks that the service is exposed little."""
        unit = str(self.folder / "qpsmtpd.service")
        command = [find("systemd-analyze"), "security", "--offline=true", "--threshold=20", unit]
        said = run(command, self.folder)
        self.assertRegex(said, r"Overall exposure level for qpsmtpd.service: [01]\.\d")

    def test_sockets(self) -> None:
        """Every socket that the service listens on has a unit, and the other way round."""
        service = (self.folder / "qpsmtpd.service").read_text()
        named = re.findall(r"systemd:domain=INET6:name=(\w+)", service)
        units = {unit.name: unit.read_text() for unit in self.folder.glob("*.socket")}
        names = [re.findall(r"^FileDescriptorName=(\w+)$", text, re.M) for text in units.values()]
        self.assertEqual(sorted(map(list, zip(named))), sorted(names))
        for line in re.findall(r"^(?:Requires|Sockets|Also)=(.*)$", service, re.M):
            self.assertEqual(sorted(line.split()), sorted(units))


class PortTests(RunnerTestCase):
    def test_submission(self) -> None:
        """Ports have policies of their own, under workers too; a reload reaches all."""
        submission = self.folder / "submission"
        submission.mkdir()
        (submission / "plugins").write_text("queue/discard\n")
        (submission / "me").write_text("submission.example\n")
        listen = "tcp:0:interface=127.0.0.1"
        words = ["--listen", listen, "--listen", listen, "--policy", str(submission)]
        command = [*TWISTD, "-n", "--pidfile=", "qpsmtpd", "--config", "config", *words]
        server = Server(self, [*command, "--workers", "2"], self.folder, NOWHERE)
        ports = [server.port(number) for number in (0, 1)]
        server.wait_for(r"info\] \d+ Listening on", 4)
        for port, me in zip(ports, (b"mail.example", b"submission.example"), strict=True):
            with connect(port) as client:
                self.assertTrue(client.ehlo()[1].startswith(me))
        (submission / "me").write_text("new.example\n")
        server.signal(signal.SIGHUP)
        server.wait_for("The configuration was read again", 2)
        for _ in range(4):
            with connect(ports[1]) as client:
                self.assertTrue(client.ehlo()[1].startswith(b"new.example"))
        with connect(ports[0]) as client, self.assertRaises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@example.org", ["b@elsewhere.example"], "x")
        server.stop()
