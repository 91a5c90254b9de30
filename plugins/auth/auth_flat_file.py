# -*- test-case-name: tests.plugins.auth.test_auth_flat_file -*-
"""Let users of a file authenticate, with PLAIN, LOGIN or CRAM-MD5.

::

    auth/auth_flat_file
    auth/auth_flat_file mechanisms plain,login

Control file ``flat_auth_pw`` has a user on each line::

    anna@example.org:correct horse battery
    bert@example.org:$scrypt$ln=15,r=8,p=3$GQkTVBDpgcT+QL4NjiqP/g$DiWXfkzvP0m6JzSY8Zb8U5H2h3...

What stands behind the first colon is the password or a hash of it, in any form of
:mod:`qpsmtpd.passwords`; ``python -m qpsmtpd hash-password`` makes a hash. Users are the same in
upper and lower case. The file should be readable by the server alone, and is read at start and
at reload.

CRAM-MD5 needs passwords in clear. It is offered where the whole file has them; with one hash in it
only PLAIN and LOGIN are, and those belong under TLS: see the control file ``tls_before_auth``. The
argument ``mechanisms`` says otherwise.

====================  ===================================================================
the user is right     235; the client may relay
the password is not   535 5.7.8
there is no such      the next plugin is asked; when none knows the user, 535 5.7.8 too
user
====================  ===================================================================

A hash is computed beside the server's other work, by ``threads`` threads, and one is computed for
users that do not exist as well, so nobody learns from the time of an answer who exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer
from zope.interface.declarations import Provides

from qpsmtpd import passwords
from qpsmtpd.component import PluginMaker, argument, component, control_file, service, state
from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.values import choice, integer, list_of
from qpsmtpd.interfaces import IAuthCramMD5, IAuthLogin, IAuthPlain, ILifecycle
from qpsmtpd.policy import report
from qpsmtpd.session import Session
from qpsmtpd.smtp.sasl import Credentials
from qpsmtpd.verdicts import Verdict, accept, deny

NAME: Final = "auth_flat_file"

_HOOKS: Final = {"plain": IAuthPlain, "login": IAuthLogin, "cram-md5": IAuthCramMD5}


class User(NamedTuple):
    """A line of the file.

    :ivar name: In lower case; empty for a line without a colon.
    :ivar stored: What stands behind the colon.
    """

    name: str
    stored: str

    def __repr__(self) -> str:
        return f"<User {self.name!r}>"  # no secret reaches a log


def user(line: str) -> User:
    """Read a line. A wrong one is reported later, where its secret is not shown."""
    name, colon, stored = line.partition(":")
    return User(name.strip().lower() if colon else "", stored.strip())


@implementer(ILifecycle, IAuthPlain, IAuthLogin, IAuthCramMD5)
@component
class AuthFlatFile:
    """Compares credentials with the lines of a file."""

    mechanisms: tuple[str, ...] = argument(
        list_of(choice(*_HOOKS)),
        default=(),
        help="what is offered: plain, login, cram-md5; unless given, what the file allows",
    )
    threads: int = argument(integer, default=2, help="hashes that are computed at the same time")
    users: tuple[User, ...] = control_file(
        "flat_auth_pw", user, example="joe@example.org:secret", help="user:password"
    )
    reactor: Any = service(IReactorThreads)
    _stored: dict[str, str] = state(dict)
    _decoy: str | None = state(lambda: None)
    _pool: ThreadPool | None = state(lambda: None)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError("threads is 1 or more")
        for number, each in enumerate(self.users, 1):
            _check(number, each)
            # Of two lines the last counts, as in the Perl qpsmtpd.
            self._stored[each.name] = each.stored
        self._decoy = _commonest(self._stored.values())
        offered = self.mechanisms or ("plain", "login", "cram-md5")
        if not self.mechanisms and self._decoy is not None:
            offered = ("plain", "login")
        # What a component provides is offered; this one may provide less than its class.
        provided = [_HOOKS[name] for name in offered]
        self.__provides__ = Provides(object, ILifecycle, *provided)

    # Lifecycle.

    def start(self) -> None:
        if self._decoy is not None:
            self._pool = ThreadPool(0, self.threads, NAME)
            self._pool.start()

    async def stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await deferToThread(pool.stop)  # it waits for the hashes under way

    # Hooks.

    async def auth_plain(self, session: Session, credentials: Credentials) -> Verdict | None:
        stored = self._stored.get(credentials.user.lower())
        password = credentials.password or b""
        hashed = stored is not None and passwords.clear_text(stored) is None
        if self._decoy is not None:
            # Always one hash, whoever the user is and however the password is stored.
            wanted = stored if hashed and stored is not None else self._decoy
            right = await self._in_thread(password, wanted)
            if hashed:
                return _verdict(session, credentials, right, "crypt match")
        if stored is None:
            report(session, NAME, f"fail, no such user: {credentials.user}")
            return None
        return _verdict(session, credentials, passwords.verify(password, stored), "clear match")

    auth_login = auth_plain

    def auth_cram_md5(self, session: Session, credentials: Credentials) -> Verdict | None:
        stored = self._stored.get(credentials.user.lower())
        clear = None if stored is None else passwords.clear_text(stored)
        right = credentials.matches(b"\0" if clear is None else clear)
        if stored is None:
            report(session, NAME, f"fail, no such user: {credentials.user}")
            return None
        if clear is None:
            report(session, NAME, "skip, cram-md5 not supported w/o clear pass")
            return None
        return _verdict(session, credentials, right, "hash match")

    async def _in_thread(self, password: bytes, stored: str) -> bool:
        if self._pool is None:
            raise RuntimeError("not started")
        right: bool = await deferToThreadPool(
            self.reactor, self._pool, passwords.verify, password, stored
        )
        return right


def _check(number: int, each: User) -> None:
    def error(expected: str) -> ConfigurationError:
        # What stands there may be a secret, so the place is given instead.
        return ConfigurationError(
            f"entry {number}, user {each.name}" if each.name else f"entry {number}",
            expected,
            file="flat_auth_pw",
        )

    if not each.name:
        raise error("user:password")
    try:
        passwords.check(each.stored)
    except ValueError as reason:
        raise error(str(reason)) from None


def _commonest(stored: Iterable[str]) -> str | None:
    """A hash of the sort that most users have; ``None`` where all passwords are in clear."""
    hashes = [each for each in stored if passwords.clear_text(each) is None]
    if not hashes:
        return None
    sorts = Counter(_parameters(each) for each in hashes)
    most = sorts.most_common(1)[0][0]
    return next(each for each in hashes if _parameters(each) == most)


def _parameters(stored: str) -> str:
    """What of a hash is neither salt nor digest: scheme and cost."""
    return stored.rsplit("$", 2)[0]


def _verdict(session: Session, credentials: Credentials, right: bool, how: str) -> Verdict:
    if right:
        report(session, NAME, f"pass, {how}")
        return accept(NAME)
    report(session, NAME, f"fail, wrong password for {credentials.user}")
    return deny(f"{NAME} - wrong password")  # for the log; the client learns no reason


maker = PluginMaker("auth/auth_flat_file", AuthFlatFile)
