"""Tests of logging/apache."""

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from qpsmtpd.plugins.logging.apache import Apache
from tests.plugins.logging.listening import ListeningTestCase

log = Logger()


class ApacheTests(ListeningTestCase):
    def test_says_so(self) -> None:
        """It starts, says what it does instead, and does it."""
        with self.listening(lambda: Apache()) as chain:
            self.successResultOf(Deferred.fromCoroutine(chain.start()))
            log.warn("smoke")
            log.info("breeze")
        told, smoke = self.lines
        self.assertTrue(told.startswith("logging::apache: there is no Apache: "), told)
        self.assertEqual(smoke, "smoke")
