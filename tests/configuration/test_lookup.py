"""Settings asked for at work: who is asked, in which order, and what counts as an answer."""

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from qpsmtpd.chain import Chain, ComponentError, Link
from qpsmtpd.component import component
from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.lookup import Lookup
from qpsmtpd.interfaces import IConfig, IConfiguration, IUserConfig
from qpsmtpd.smtp.address import Address
from tests.configuration.folders import FolderTestCase

USER = Address("user", "example.com")

Lines = Sequence[str] | None


@implementer(IConfig)
@component
class Global:
    """Knows settings that are the same for everybody."""

    answer: Any = None

    def config(self, name: str) -> Lines:
        if isinstance(self.answer, Exception):
            raise self.answer
        said: Lines = self.answer
        return said


@implementer(IUserConfig)
@component
class Personal:
    """Knows settings of users, and takes its time."""

    answer: Any = None

    async def user_config(self, address: Address, name: str) -> Lines:
        assert address == USER
        if isinstance(self.answer, Exception):
            raise self.answer
        said: Lines = self.answer
        return said


class LookupTests(FolderTestCase, TestCase):
    def lookup(self, *components: object, **texts: str) -> Lookup:
        found = Lookup(self.configure(texts), lambda interface: reactor)
        found.chain = Chain(components)
        return found

    def test_interface(self) -> None:
        """It is the service that components declare."""
        verifyObject(IConfiguration, self.lookup())

    async def test_precedence(self) -> None:
        """Users' settings come before everybody's, then the file, then the default; no value is
        an answer, too."""
        absent, nothing = None, ()
        for name, user, everybody, of_user, of_all in (
            ("size_threshold", absent, absent, "10000", "10000"),
            ("timeout", absent, absent, "1200", "1200"),
            ("timeout", absent, ["1000"], "1000", "1000"),
            ("timeout", ["500"], nothing, "500", None),
            ("timeout", nothing, ["1000"], None, "1000"),
        ):
            components = [Global(answer=everybody), Personal(answer=user)]
            for chain in (components, components[::-1]):
                lookup = self.lookup(*chain, size_threshold="10000\n")
                case = (name, user, everybody)
                self.assertEqual(await lookup.first(name, USER), of_user, case)
                self.assertEqual(await lookup.first(name), of_all, case)
        nobody = self.lookup(size_threshold="10000\n")
        self.assertEqual(await nobody.first("size_threshold", USER), "10000")
        self.assertEqual(await nobody.first("timeout", USER), "1200")

    async def test_defaults(self) -> None:
        """The server's name is the host's unless somebody says otherwise; 0 is a value."""
        self.assertEqual(await self.lookup().lines("me"), (socket.gethostname(),))
        self.assertEqual(await self.lookup(me="mx.example").lines("me"), ("mx.example",))
        self.assertEqual(await self.lookup(timeout="0").lines("timeout"), ("0",))
        self.assertEqual(await self.lookup().lines("rcpthosts"), ())
        self.assertIsNone(await self.lookup().first("rcpthosts"))

    async def test_remembered(self) -> None:
        """What was heard of everybody's settings holds as long as the configuration."""
        everybody = Global(answer=["one", " two "])
        lookup = self.lookup(everybody)
        self.assertEqual(await lookup.lines("mine"), ("one", "two"))
        everybody.answer = ["three"]
        self.assertEqual(await lookup.lines("mine"), ("one", "two"))

    async def test_files_only(self) -> None:
        """What is needed before components are there is in files alone."""
        lookup = self.lookup(Global(answer=["0"]), loglevel="7\n")
        self.assertEqual(await lookup.first("loglevel"), "7")

    async def test_failure(self) -> None:
        """A component that fails is no answer, and other settings do not take its place."""
        lookup = self.lookup(Link(Personal(answer=OSError("no")), "people"), mine="1\n")
        caught = await self.assertFailure(
            Deferred.fromCoroutine(lookup.lines("mine", USER)), ComponentError
        )
        self.assertIn("people failed at user_config: OSError('no')", str(caught))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual(await lookup.lines("mine"), ("1",))

    async def test_skipped(self) -> None:
        """With ``on_fault skip`` others are asked in its place."""
        link = Link(Global(answer=OSError("no")), "remote", skip_faults=True)
        self.assertEqual(await self.lookup(link, mine="1\n").lines("mine"), ("1",))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    async def test_bad_file(self) -> None:
        """A file that cannot be read is an error that names it, and so is a name that is none."""
        lookup = self.lookup(mine="$include gone\n")
        for name in ("mine", "../mine"):
            await self.assertFailure(Deferred.fromCoroutine(lookup.lines(name)), ConfigurationError)
