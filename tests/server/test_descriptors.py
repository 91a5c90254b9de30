"""How many connections a process can have."""

import resource

from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.server.descriptors import affordable, provide


class ProvideTests(SynchronousTestCase):
    """The system's limits are a fake's; those of the process that tests stay as they are.

    :ivar limits: The soft and the hard one.
    """

    def setUp(self) -> None:
        self.limits = (1024, 4096)
        self.patch(resource, "getrlimit", lambda which: self.limits)
        self.patch(resource, "setrlimit", self.set)

    def set(self, which: int, limits: tuple[int, int]) -> None:
        self.assertEqual(which, resource.RLIMIT_NOFILE)
        self.limits = limits

    def test_enough(self) -> None:
        """Where there is enough, nothing is asked for."""
        self.assertEqual(provide(400), 400)
        self.assertEqual(self.limits, (1024, 4096))

    def test_more(self) -> None:
        """As many are asked for as the connections need."""
        self.assertEqual(provide(1000), 1000)
        self.assertEqual(self.limits, (2128, 4096))

    def test_most(self) -> None:
        """Where the system has less, all that it has are asked for, and it is said."""
        self.assertEqual(provide(10_000), 1984)
        self.assertEqual(self.limits, (4096, 4096))

    def test_unlimited_connections(self) -> None:
        """No limit on connections becomes the one that there is."""
        self.assertEqual(provide(0), 1984)
        self.assertEqual(self.limits, (4096, 4096))

    def test_unlimited_descriptors(self) -> None:
        """Without a limit on descriptors there is none on connections."""
        self.limits = (1024, resource.RLIM_INFINITY)
        self.assertEqual(provide(0), 0)
        self.assertEqual(self.limits, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.assertEqual(provide(10_000), 10_000)

    def test_refused(self) -> None:
        """What the system refuses to give is done without."""

        def refuse(which: int, limits: tuple[int, int]) -> None:
            raise PermissionError("not permitted")

        self.patch(resource, "setrlimit", refuse)
        self.assertEqual(provide(1000), 448)

    def test_few(self) -> None:
        """With very few descriptors there are still some connections."""
        self.assertEqual([affordable(limit) for limit in (8, 64, 256)], [2, 16, 64])

    def test_many(self) -> None:
        """Beyond the files that are ever open at once, each connection needs one descriptor."""
        self.assertEqual(affordable(20_000), 20_000 - 128 - 4096)
