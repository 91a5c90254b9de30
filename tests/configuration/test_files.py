"""Where control files are found, and what they say."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qpsmtpd.configuration.errors import ConfigurationError
from qpsmtpd.configuration.files import INCLUDE_DEPTH, ControlFiles, Line
from qpsmtpd.configuration.values import integer


class FilesTestCase(SynchronousTestCase):
    """Writes files below a folder of its own."""

    def setUp(self) -> None:
        self.top = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.top, "config"))
        self.files = ControlFiles([self.at("control"), self.at("config")])

    def at(self, path: str) -> str:
        return os.path.join(self.top, path)

    def write(self, path: str, content: str | bytes) -> str:
        path = self.at(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def texts(self, name: str) -> list[str]:
        return [line.text for line in self.files.lines(name)]

    def assert_error(self, name: str, message: str) -> None:
        """Reading the name fails with a message, in which ``TOP`` is the test's folder."""
        with self.assertRaises(ConfigurationError) as caught:
            self.files.lines(name)
        self.assertEqual(str(caught.exception).replace(self.top, "TOP"), message)


class LookupTests(FilesTestCase):
    def test_last_directory_wins(self) -> None:
        """For each name on its own, the last directory that has the file wins."""
        self.write("control/me", "qmail.example")
        self.write("control/rcpthosts", "qmail.example")
        self.write("config/me", "mail.example")
        self.assertEqual(self.texts("me"), ["mail.example"])
        self.assertEqual(self.texts("rcpthosts"), ["qmail.example"])
        self.assertEqual(self.files.path("me"), self.at("config/me"))

    def test_empty_file_hides(self) -> None:
        """An empty file in a later directory takes back what an earlier one says."""
        self.write("control/badmailfrom", "@bad.example")
        self.write("config/badmailfrom", "")
        self.assertEqual(self.texts("badmailfrom"), [])

    def test_missing(self) -> None:
        """A file that nobody wrote has no path, no lines and no first line."""
        self.assertIsNone(self.files.path("me"))
        self.assertEqual(self.files.lines("me"), ())
        self.assertIsNone(self.files.first("me"))

    def test_directory_is_no_file(self) -> None:
        """A directory of the name does not stand for a file of the name."""
        os.mkdir(self.at("config/dkim"))
        self.assertIsNone(self.files.path("dkim"))
        self.write("control/dkim", "x")
        self.files = ControlFiles(self.files.directories)
        self.assertEqual(self.files.path("dkim"), self.at("control/dkim"))

    def test_name_with_parts(self) -> None:
        """A name may lead into folders below the directory."""
        self.write("config/dkim/mail.example/selector", "2024")
        self.assertEqual(self.texts("dkim/mail.example/selector"), ["2024"])

    def test_name_cannot_escape(self) -> None:
        """A name leads nowhere but below the directories."""
        self.write("secret", "x")
        self.write("config/a", "x")
        names = ["", ".", "..", "../secret", "a/../a", "/etc/passwd", "./a", "a/", "a//b", "a/.."]
        for name in [*names, "a\0", "a\n", "\udcff"]:
            with self.assertRaises(ConfigurationError, msg=repr(name)):
                self.files.path(name)
        self.write("config/..a", "fine")
        self.assertEqual(self.texts("..a"), ["fine"])

    def test_from_environment(self) -> None:
        """qmail's files come first, then the installation's, then the operator's choice."""
        environ = {"QMAIL": "/var/mail-system", "QPSMTPD_CONFIG": self.at("config")}
        self.assertEqual(
            ControlFiles.from_environment(environ, "/srv/smtp").directories,
            ("/var/mail-system/control", "/srv/smtp/config", self.at("config")),
        )
        self.assertEqual(
            ControlFiles.from_environment({"QPSMTPD_CONFIG": ""}, "/srv/smtp").directories,
            ("/var/qmail/control", "/srv/smtp/config"),
        )

    def test_program(self) -> None:
        """PROCESS says where the program is, beside which config/ is; a bare name says nothing."""
        for process, base in (("/opt/q/qpsmtpd", "/opt/q"), ("qpsmtpd", "/srv"), ("", "/srv")):
            found = ControlFiles.from_environment({"PROCESS": process}, "/srv").directories
            self.assertEqual(found, ("/var/qmail/control", f"{base}/config"))

    def test_chosen_directory_missing(self) -> None:
        """A QPSMTPD_CONFIG that does not exist is a slip, and not passed over."""
        with self.assertRaises(ConfigurationError) as caught:
            ControlFiles.from_environment({"QPSMTPD_CONFIG": "/no/such/place"}, "/srv")
        self.assertEqual(
            str(caught.exception), '"QPSMTPD_CONFIG=/no/such/place": expected an existing directory'
        )

    def test_remembered(self) -> None:
        """All who ask within one generation see the same; the next one sees the change."""
        path = self.write("config/me", "old.example")
        self.assertEqual(self.texts("me"), ["old.example"])
        self.assertIsNone(self.files.first("databytes"))
        self.write("config/me", "new.example")
        self.write("config/databytes", "1000")
        self.assertEqual(self.texts("me"), ["old.example"])
        self.assertIsNone(self.files.first("databytes"))
        self.assertEqual(
            ControlFiles(self.files.directories).lines("me"), (Line("new.example", path, 1),)
        )

    def test_files_read(self) -> None:
        """The files that were read are known, each once, and those that were not are not."""
        included = self.write("config/more", "x")
        plugins = self.write("config/plugins", "$include more\n$include more\n")
        self.write("config/me", "mail.example")
        self.files.lines("plugins")
        self.files.lines("plugins")
        self.assertEqual(self.files.files_read(), (plugins, included))


class FormatTests(FilesTestCase):
    def test_lines(self) -> None:
        """Comments and blank lines mean nothing, and lines keep their number."""
        path = self.write(
            "config/plugins", "# ours\n\n  relay  only \r\n\t# off\n\trcpt_ok # not\\"
        )
        self.assertEqual(
            self.files.lines("plugins"),
            (Line("relay  only", path, 3), Line("rcpt_ok # not\\", path, 5)),
        )
        self.assertEqual(self.files.first("plugins"), Line("relay  only", path, 3))

    def test_utf_8(self) -> None:
        """Lines are UTF-8, and a byte order mark is no part of the first."""
        self.write("config/smtpgreeting", b"\xef\xbb\xbfb\xc3\xbccher\xc2\xa0\n")
        self.assertEqual(self.texts("smtpgreeting"), ["bücher\N{NO-BREAK SPACE}"])

    def test_not_utf_8(self) -> None:
        """A line in another encoding is an error; a comment may be in any."""
        self.write("config/me", b"# b\xfccher\nb\xfccher.example\n")
        self.assert_error("me", r'TOP/config/me:2: "b\xfccher.example": expected UTF-8')

    def test_value(self) -> None:
        """A line is converted to a setting, and a wrong one names its place."""
        path = self.write("config/databytes", "10000\nmany\n")
        good, bad = self.files.lines("databytes")
        self.assertEqual(good.value(integer), 10000)
        with self.assertRaises(ConfigurationError) as caught:
            bad.value(integer)
        self.assertEqual(
            str(caught.exception), f'{path}:2: "many": expected a whole number, 0 or more'
        )

    def test_unreadable(self) -> None:
        """A file that is there but cannot be read is an error, not an empty file."""
        os.symlink("me", self.at("config/me"))
        self.assert_error(
            "me", "TOP/config/me: expected something readable: Too many levels of symbolic links"
        )

    def test_not_permitted(self) -> None:
        """A file without permission to read it is an error that says so."""
        self.write("config/me", "mail.example")

        def refuse(*args: object) -> int:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "open", refuse)  # the tests may run as root, who may read anything
        self.assert_error("me", "TOP/config/me: expected something readable: Permission denied")

    def test_directory_not_permitted(self) -> None:
        """An included directory without permission to list it is an error that says so."""
        os.mkdir(self.at("config/plugins.d"))
        self.write("config/plugins", "$include plugins.d")

        def refuse(path: str) -> list[str]:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "listdir", refuse)
        self.assert_error(
            "plugins", "TOP/config/plugins.d: expected something readable: Permission denied"
        )

    def test_huge(self) -> None:
        """A file of absurd size is not read into memory."""
        os.truncate(self.write("config/me", "mail.example\n"), 1 << 40)
        self.assert_error("me", "TOP/config/me: expected at most 67108864 octets")

    def test_fifo(self) -> None:
        """A FIFO, on which reading could wait for ever, is an error."""
        os.mkfifo(self.at("config/me"))
        self.assert_error("me", "TOP/config/me: expected a regular file")

    @given(st.binary())
    def test_any_octets(self, octets: bytes) -> None:
        """Whatever a file holds, it is read or refused with its name."""
        path = self.write("config/any", octets)
        files = ControlFiles([self.at("config")])
        try:
            lines = files.lines("any")
        except ConfigurationError as error:
            self.assertEqual(error.file, path)
        else:
            self.assertTrue(all(line.text and not line.text.startswith("#") for line in lines))

    @given(
        st.lists(st.sampled_from([b"$include", b" ", b"/", b".", b"any", b"\0", b"\xff", b"\n"]))
    )
    def test_any_include(self, pieces: list[bytes]) -> None:
        """Whatever a file includes, it is read or refused."""
        self.write("config/any", b"".join(pieces))
        try:
            ControlFiles([self.at("config")]).lines("any")
        except ConfigurationError as error:
            self.assertNotIn("\n", str(error))


class IncludeTests(FilesTestCase):
    def test_in_place(self) -> None:
        """The lines of an included file stand where it is included, and know where they are."""
        plugins = self.write("config/plugins", "first\n  $include  more \nlast\n")
        more = self.write("control/more", "\nmiddle\n")
        self.assertEqual(
            self.files.lines("plugins"),
            (Line("first", plugins, 1), Line("middle", more, 2), Line("last", plugins, 3)),
        )

    def test_targets(self) -> None:
        """A target is absolute, or is looked for as a name is, and may lead upwards."""
        absolute = self.write("elsewhere/a", "absolute")
        self.write("control/b", "control")
        self.write("config/b", "config")
        self.write("shared/c", "upwards")
        self.write("config/plugins", f"$include {absolute}\n$include b\n$include ../shared/c\n")
        self.assertEqual(self.texts("plugins"), ["absolute", "config", "upwards"])

    def test_directory(self) -> None:
        """A directory stands for its files in the order of their names, hidden ones apart."""
        for name in ("20-b", "10-a", ".hidden", "folder/c"):
            self.write(f"config/plugins.d/{name}", name)
        self.write("config/plugins", "$include plugins.d")
        self.assertEqual(self.texts("plugins"), ["10-a", "20-b"])

    def test_ordinary_lines(self) -> None:
        """Only ``$include`` as a word of its own, in lower case, includes."""
        self.write("config/plugins", "$INCLUDE more\n$includes more\na $include more\n")
        self.assertEqual(
            self.texts("plugins"), ["$INCLUDE more", "$includes more", "a $include more"]
        )

    def test_missing(self) -> None:
        """An include that leads nowhere is an error that says where was looked."""
        self.write("config/plugins", "\n$include more\n")
        self.assert_error(
            "plugins",
            'TOP/config/plugins:2: "$include more": '
            "expected an existing file or directory in TOP/control, TOP/config",
        )
        self.write("config/logging", "$include /no/such")
        self.assert_error(
            "logging",
            'TOP/config/logging:1: "$include /no/such": expected an existing file or directory',
        )

    def test_not_one_target(self) -> None:
        """An include of none or of two files is an error."""
        self.write("config/plugins", "$include a b")
        self.assert_error(
            "plugins",
            'TOP/config/plugins:1: "$include a b": expected $include and one file or directory',
        )
        self.write("config/logging", "$include")
        self.assert_error(
            "logging",
            'TOP/config/logging:1: "$include": expected $include and one file or directory',
        )

    def test_impossible_target(self) -> None:
        """An include of a path that cannot be is an error at its line."""
        self.write("config/plugins", "$include a\0b")
        self.assert_error(
            "plugins",
            r'TOP/config/plugins:1: "$include a\x00b": expected a path that this system can have',
        )

    def test_twice(self) -> None:
        """One file may be included twice, by one file or by two."""
        self.write("config/plugins", "$include common\n$include other\n$include common\n")
        self.write("config/other", "$include common\n")
        self.write("config/common", "x\n")
        self.assertEqual(self.texts("plugins"), ["x", "x", "x"])

    def test_circle(self) -> None:
        """Files that include each other in a circle are an error that names them all."""
        self.write("config/a", "$include b\n")
        self.write("config/b", "$include c.d\n")
        self.write("config/c.d/c", "x\n$include a\n")
        self.assert_error(
            "a",
            'TOP/config/c.d/c:2: "$include a": expected no circle of files: TOP/config/a '
            "includes TOP/config/b includes TOP/config/c.d/c includes TOP/config/a",
        )

    def test_circle_through_link(self) -> None:
        """A file that includes itself under another name is a circle all the same."""
        self.write("config/a", "$include b\n")
        os.symlink("a", self.at("config/b"))
        self.assert_error(
            "a",
            'TOP/config/a:1: "$include b": expected no circle of files: '
            "TOP/config/a includes TOP/config/b",
        )

    def test_depth(self) -> None:
        """Files may include each other to a certain depth, and not one deeper."""
        for depth in range(INCLUDE_DEPTH + 1):
            self.write(f"config/{depth}", f"{depth}\n$include {depth + 1}\n")
        self.write(f"config/{INCLUDE_DEPTH + 1}", "too deep")
        self.assertEqual(len(self.texts("1")), INCLUDE_DEPTH + 1)
        self.assert_error(
            "0",
            f'TOP/config/{INCLUDE_DEPTH}:2: "$include {INCLUDE_DEPTH + 1}": '
            f"expected files to include each other at most {INCLUDE_DEPTH} deep",
        )
