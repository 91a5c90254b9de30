"""The sample configuration of the Perl qpsmtpd, served as it is.

``sample/`` has its files, with their names and their lines of data.
"""

import re
import smtplib
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration import discovery
from qpsmtpd.configuration.files import ControlFiles
from qpsmtpd.configuration.lines import PluginLine, parse
from qpsmtpd.configuration.plugins import read_links
from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.service import check
from qpsmtpd.services.registry import ServiceRegistry
from tests.server.processes import TWISTD, Server, connect

SAMPLE = Path(__file__).resolve().parent / "sample"


def there(name: str) -> bool:
    """Whether a module has the name."""
    try:
        discovery.find(name)
    except discovery.NotFoundError:
        return False
    return True


class SampleTests(SynchronousTestCase):
    def active(self) -> list[PluginLine]:
        return list(parse(ControlFiles([str(SAMPLE)]).lines("plugins")))

    def test_commented(self) -> None:
        """Each commented line can be made active: it is loaded, or named if it is not there."""
        text = (SAMPLE / "plugins").read_text()
        lines = re.findall(r"^ *# ?([a-z].*)$", text, re.MULTILINE)
        self.assertEqual((len(self.active()), len(lines)), (24, 27))
        registry = ServiceRegistry(Clock(), self.mktemp())
        for line in lines:
            if line == "tls":  # needs a certificate
                continue
            folder = Path(self.mktemp())
            folder.mkdir()
            (folder / "plugins").write_text(f"{line}\n")
            links, notices = read_links(ControlFiles([str(folder)]), registry)
            title = line.split()[0]
            named = {each.found for each in notices if each.grave}
            self.assertEqual([link.name for link in links] or [*named], [title])

    def test_starts(self) -> None:
        """It starts without a change, loads what is there, names what is not, and serves."""
        folder = Path(self.mktemp())
        folder.mkdir()
        environ = {"QPSMTPD_CONFIG": str(SAMPLE), "QMAIL": str(folder)}
        command = [*TWISTD, "-n", "qpsmtpd", "--listen", "tcp:0:interface=127.0.0.1"]
        server = Server(self, command, folder, environ)
        port = server.port()
        missing = [line for line in self.active() if not there(line.name)]
        for line in missing:
            where = f"{SAMPLE / 'plugins'}:{line.line}"
            server.wait_for(re.escape(f'{where}: "{line.title}": has no effect: '))
        named = set(re.findall(r'"([^"]+)": has no effect', server.said))
        self.assertEqual(named, {line.title for line in missing})
        with connect(port) as client:
            self.converse(client)
        server.stop()

    def converse(self, client: smtplib.SMTP) -> None:
        client.ehlo("client.example")
        self.assertFalse(client.has_extn("auth"), "AUTH is offered in clear")
        for command, code in (
            ("MAIL FROM: a@client.example", 250),
            ("RCPT TO:<b@localhost>", 250),
            ("RCPT TO:<c@elsewhere.example>", 250),  # 127.0.0.1 may relay
        ):
            self.assertEqual(client.docmd(command)[0], code, command)
        # The sample has no queue plugin.
        self.assertEqual(client.data(b"From: a@client.example\r\n\r\nHello\r\n")[0], 451)

    def test_loaded(self) -> None:
        """Every active line whose plugin is there is loaded, in its order."""
        found = check(ServerOptions(directories=(str(SAMPLE),), state=self.mktemp()))
        titles = [line.title for line in self.active() if there(line.name)]
        self.assertEqual([link.name for link in found.chain.links], ["logging/warn", *titles])
        self.assertGreater(len(titles), 10)
