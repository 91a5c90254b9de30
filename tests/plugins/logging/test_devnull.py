"""Tests of logging/devnull."""

from twisted.logger import Logger

from qpsmtpd import logs
from qpsmtpd.plugins.logging.devnull import DevNull
from qpsmtpd.plugins.logging.warn import Warn
from tests.plugins.logging.listening import ListeningTestCase

log = Logger()


class DevNullTests(ListeningTestCase):
    def test_nothing(self) -> None:
        """Nothing is written, and nothing is made to be written, not even an emergency."""
        with self.listening(DevNull):
            self.assertFalse(logs.wanted(0))
            log.critical("fire", severity=0)
        self.assertEqual(self.stream.getvalue(), "")

    def test_beside_another(self) -> None:
        """Other logging plugins write what they would."""
        with self.listening(lambda: Warn(), DevNull()):
            log.warn("smoke")
        self.assertEqual(self.lines, ["smoke"])
