"""The ``plugins`` file becomes components, or errors that say where and what was expected."""

from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface.interface import InterfaceClass

from qpsmtpd.chain import Link
from qpsmtpd.configuration import perl
from qpsmtpd.configuration.errors import ConfigurationErrors
from qpsmtpd.configuration.plugins import read_links
from tests.configuration.folders import FolderTestCase

SAMPLE = """
    from qpsmtpd.component import PluginMaker, argument, component, control_file
    from qpsmtpd.configuration.values import domain, integer, text, yes_no

    @component
    class Sample:
        "Has an argument of each sort."

        word: str | None = argument(text, default=None, positional=True, help="a word")
        count: int = argument(integer, default=3, positional=True, help="how many")
        reject: bool = argument(yes_no, default=True, help="whether")
        check_at: str = argument(text, default="rcpt", name="check-at", help="where")
        loud: bool = argument(text, flag=True, help="shout")
        zone: tuple[str, ...] = argument(domain, many=True, help="a zone")
        exempt: tuple[str, ...] = control_file("sample_exempt", domain, help="left alone")
        level: int | None = control_file("sample_level", integer, first=True, help="a level")

        def __post_init__(self):
            if self.count == 13:
                raise ValueError("13 brings bad luck")

    maker = PluginMaker("sample", Sample)
"""

TARGET = """
    from qpsmtpd.component import PluginMaker, argument, component
    from qpsmtpd.configuration.values import integer, text

    @component
    class Target:
        "Takes the rest of the line."

        target: tuple[str, ...] = argument(text, many=True, positional=True, help="where to")
        size: int = argument(integer, help="no default")

    maker = PluginMaker("sub/target", Target)
"""

CLOCK = """
    from twisted.internet.interfaces import IReactorTime
    from zope.interface import Interface

    from qpsmtpd.component import PluginMaker, component, service

    class INothing(Interface):
        "Nobody offers it."

    @component
    class Clocked:
        "Asks the clock."

        clock: IReactorTime = service(IReactorTime)

    @component
    class Lonely:
        "Asks nobody."

        nothing: INothing = service(INothing)

    maker = PluginMaker("{name}", {kind})
"""


class PluginsTestCase(FolderTestCase):
    """Reads ``plugins`` files that name the plugins above, in a folder of their own."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.write("more/sample.py", SAMPLE)
        self.write("more/sub/target.py", TARGET)
        for name, kind in (("clocked", "Clocked"), ("lonely", "Lonely")):
            text = CLOCK.replace("{name}", name).replace("{kind}", kind)
            self.write(f"more/{name}.py", text)
        self.write("config/plugin_dirs", self.at("more") + "\n")

    def services(self, interface: InterfaceClass) -> object:
        if interface is not IReactorTime:
            raise KeyError(interface)
        return self.clock

    def read(self, plugins: str, **others: str) -> list[Link]:
        return read_links(self.configure({"plugins": plugins, **others}), self.services)[0]

    def component(self, line: str, **others: str) -> Any:
        [link] = self.read(line + "\n", **others)
        return link.component

    def errors(self, plugins: str, **others: str) -> list[str]:
        caught = self.assertRaises(ConfigurationErrors, self.read, plugins, **others)
        return self.plain(caught).splitlines()


class PerlTests(PluginsTestCase):
    """Lines of the Perl qpsmtpd that lead nowhere here."""

    def setUp(self) -> None:
        super().setUp()
        # Whatever is bundled by now, nothing of it is there in this test.
        self.patch(perl, "PLUGINS", {"there/gone": perl.Task.QUEUE})
        self.patch(perl, "IGNORED_ARGUMENTS", {"sample": {"old": 1, "alone": 0}})

    def notices(self, plugins: str) -> list[str]:
        self.links, found = read_links(self.configure({"plugins": plugins}), self.services)
        self.found = found
        return [self.plain(Exception(each)) for each in found]

    def test_missing(self) -> None:
        """A plugin of the Perl qpsmtpd that is not there stops nothing, and is named."""
        self.assertEqual(
            self.notices("clocked\nthere/gone:1 password secret\nsample\n"),
            [
                'TOP/config/plugins:2: "there/gone:1": has no effect: this plugin of the Perl '
                "qpsmtpd is not there; no message is queued by it, and without another queue "
                "plugin every one is deferred"
            ],
        )
        self.assertTrue(self.found[0].grave)
        self.assertEqual([link.name for link in self.links], ["clocked", "sample"])

    def test_unknown(self) -> None:
        """A name that the Perl qpsmtpd does not have either is an error."""
        [error] = self.errors("there/gon\n")
        self.assertIn("plugin there/gon not found", error)

    def test_old_name(self) -> None:
        """A plugin's name of older versions is read as the present one, with a notice."""
        self.patch(perl, "OLD_NAMES", {"sampler": "sample count 4", "clocked": "sample"})
        self.assertEqual(
            self.notices("sampler:1 hello\nclocked\n"),
            ['TOP/config/plugins:1: "sampler:1": is read as sample count 4'],
        )
        component: Any = self.links[0].component
        self.assertEqual((component.word, component.count), ("hello", 4))
        self.assertEqual([link.name for link in self.links], ["sample:1", "clocked"])

    def test_moved(self) -> None:
        """A plugin of older versions whose file nothing reads is an error that says what to do."""
        [error] = self.errors("check_badmailfrom_patterns\n")
        self.assertIn("badmailfrom, with the lines of badmailfrom_patterns in its file", error)

    def test_perl(self) -> None:
        """A plugin of one's own that is written in Perl is an error that says so."""
        self.write("more/sub/mine", "=head1 NAME\n\nmine\n\n=cut\n\nsub hook_rcpt { 909 }\n")
        self.write("more/other", "only text\n")
        errors = self.errors("sub/mine\nother\n")
        self.assertIn("TOP/more/sub/mine is one in Perl, which has to be ported", errors[0])
        self.assertIn("plugin other not found", errors[1])

    def test_not_importable(self) -> None:
        """A module that is there and cannot be used is an error, whatever its name."""
        self.write("more/there/gone.py", "import nowhere_to_be_found")
        [error] = self.errors("there/gone\n")
        self.assertIn("needs the Python module nowhere_to_be_found", error)

    def test_passed_over(self) -> None:
        """Words that the Perl qpsmtpd passes over mean nothing here either, and are named."""
        self.assertEqual(
            self.notices("sample hello old 5 count 7 alone\nsample old\n"),
            [
                'TOP/config/plugins:1: "old 5": means nothing to sample and is passed over',
                'TOP/config/plugins:1: "alone": means nothing to sample and is passed over',
                'TOP/config/plugins:2: "old": means nothing to sample and is passed over',
            ],
        )
        component: Any = self.links[0].component
        self.assertEqual((component.word, component.count), ("hello", 7))
        self.assertFalse(any(each.grave for each in self.found))


class LinesTests(PluginsTestCase):
    def test_order_and_names(self) -> None:
        """Components come in the order of their lines, those of ``logging`` before all."""
        links = self.read("# ours\n\nsample\nsub/target a size 1\nsample:1\n", logging="clocked\n")
        self.assertEqual(
            [link.name for link in links], ["clocked", "sample", "sub/target", "sample:1"]
        )

    def test_instances(self) -> None:
        """A plugin may be used several times, each with its own number and settings."""
        links = self.read("sample:0 count 1\nsample:1 count 2\nsample count 4\n")
        components: list[Any] = [link.component for link in links]
        self.assertEqual([each.count for each in components], [1, 2, 4])
        self.assertEqual([link.name for link in links], ["sample:0", "sample:1", "sample"])

    def test_include(self) -> None:
        """``$include`` brings lines of another file, and its errors name that file."""
        self.write("config/policy", "sample reject perhaps\n")
        errors = self.errors("clocked\n$include policy\n")
        self.assertEqual(len(errors), 1)
        self.assertTrue(errors[0].startswith('TOP/config/policy:1: "perhaps": '), errors[0])
        self.write("config/policy", "sample hello\n")
        self.assertEqual(len(self.read("clocked\n$include policy\n")), 2)

    def test_bundled_sub_folder(self) -> None:
        """A bundled plugin of a sub-folder is named with it."""
        self.assertEqual(self.read("queue/discard\n")[0].name, "queue/discard")

    def test_services(self) -> None:
        """A component is given the services that it declares."""
        self.assertIs(self.component("clocked").clock, self.clock)


class ArgumentTests(PluginsTestCase):
    def assert_settings(self, line: str, **expected: Any) -> None:
        """A line of ``sample`` gives these settings, and the defaults for all others."""
        defaults: Mapping[str, Any] = {
            "word": None,
            "count": 3,
            "reject": True,
            "check_at": "rcpt",
            "loud": False,
            "zone": (),
            "exempt": (),
            "level": None,
        }
        component = self.component(line)
        found = {name: getattr(component, name) for name in defaults}
        self.assertEqual(found, {**defaults, **expected})

    def test_defaults(self) -> None:
        """Without arguments every setting has its default."""
        self.assert_settings("sample")

    def test_name_and_value(self) -> None:
        """A value follows its name, or stands behind ``=``."""
        self.assert_settings("sample reject 0 count 5", reject=False, count=5)
        self.assert_settings("sample reject=0 count=5", reject=False, count=5)

    def test_name_of_its_own(self) -> None:
        """An argument may have a name that no field can have."""
        self.assert_settings("sample check-at data", check_at="data")
        self.assert_settings("sample check-at=data", check_at="data")

    def test_last_wins(self) -> None:
        """Of an argument that comes twice the last one counts, as in the Perl qpsmtpd."""
        self.assert_settings("sample count 5 count 6", count=6)

    def test_quotes(self) -> None:
        """Quotes keep a value together, and a value may hold what separates elsewhere."""
        self.assert_settings("sample 'two words'", word="two words")
        self.assert_settings('sample word="a b=c"', word="a b=c")
        self.assert_settings('sample check-at "it\'s"', check_at="it's")
        self.assert_settings("sample a\\ b", word="a b")

    def test_value_with_equals(self) -> None:
        """Text with ``=`` whose left side is no argument is a word like others."""
        self.assert_settings("sample key=value", word="key=value")

    def test_flag(self) -> None:
        """A flag is set by its name alone, and by a truth behind ``=``."""
        self.assert_settings("sample loud", loud=True)
        self.assert_settings("sample loud hello", loud=True, word="hello")
        self.assert_settings("sample loud=yes", loud=True)
        self.assert_settings("sample loud=0", loud=False)

    def test_many(self) -> None:
        """An argument that may come several times gathers its values."""
        self.assert_settings(
            "sample zone a.example zone=b.example", zone=("a.example", "b.example")
        )

    def test_positional(self) -> None:
        """Words without names are taken in the order of the fields, between named ones."""
        self.assert_settings("sample hello 7", word="hello", count=7)
        self.assert_settings("sample hello reject 0 7", word="hello", count=7, reject=False)

    def test_positional_given_by_name(self) -> None:
        """A word is never taken for a setting that has its value already."""
        self.assert_settings("sample word=hello 7", word="hello", count=7)

    def test_positional_many(self) -> None:
        """An argument for the rest of the line takes all words that are left."""
        component = self.component("sub/target |command size 5 --flag 'its argument'")
        self.assertEqual(component.target, ("|command", "--flag", "its argument"))
        self.assertEqual(component.size, 5)

    def test_common(self) -> None:
        """Every plugin takes ``on_fault`` and ``time_limit``; they are for its link."""
        [link] = self.read("sample on_fault skip time_limit 2m\n")
        self.assertTrue(link.skip_faults)
        self.assertEqual(link.time_limit, 120)
        [link] = self.read("sample on_fault=tempfail\n")
        self.assertFalse(link.skip_faults)
        self.assertEqual(link.time_limit, 0)

    def test_log_shift(self) -> None:
        """Every plugin takes ``loglevel``; a plugin with such an argument of its own keeps that."""
        for text, before, after in (("5", 6, 5), ("+1", 7, 7), ("+2", 4, 6), ("-3", 2, 0)):
            [link] = self.read(f"sample loglevel {text}\n")
            assert link.log_shift is not None
            self.assertEqual(link.log_shift.apply(before), after, text)
        for text in ("", " loglevel 0", " loglevel=+0"):
            self.assertIsNone(self.read(f"sample{text}\n")[0].log_shift)
        [link] = self.read("logging/warn loglevel 0\n")
        self.assertIsNone(link.log_shift)
        self.assertEqual(link.component.loglevel, 0)  # type: ignore[attr-defined]
        [error] = self.errors("\nsample loglevel +8\n")
        self.assertEqual(
            error,
            'TOP/config/plugins:2: "+8": expected 1 to 7 for all its lines, or +1, -2 and so on to '
            "shift them for loglevel",
        )

    def test_control_files(self) -> None:
        """A component gets the values of its control files, all lines or the first."""
        component = self.component(
            "sample", sample_exempt="A.example\nb.example\n", sample_level="2\n3\n"
        )
        self.assertEqual(component.exempt, ("a.example", "b.example"))
        self.assertEqual(component.level, 2)


class ErrorTests(PluginsTestCase):
    def test_unknown_plugin(self) -> None:
        """A plugin that is not there is named with its line, and where it was looked for."""
        [error] = self.errors("sample\n\nnowhere arg\n")
        self.assertTrue(
            error.startswith(
                'TOP/config/plugins:3: "nowhere": expected a plugin that can be used; '
                "plugin nowhere not found in TOP/more, "
            ),
            error,
        )

    def test_missing_python_module(self) -> None:
        """A plugin that needs a Python module which is not installed says so."""
        self.write("more/needs.py", "import nowhere_to_be_found\n")
        self.assertEqual(
            self.errors("needs\n"),
            [
                'TOP/config/plugins:1: "needs": expected a plugin that can be used; plugin needs '
                "needs the Python module nowhere_to_be_found, which is not installed"
            ],
        )

    def test_unknown_argument(self) -> None:
        """A word that nothing can be made of is refused with the arguments there are."""
        self.assertEqual(
            self.errors("sample hello 7 more\n"),
            [
                'TOP/config/plugins:1: "more": expected an argument of sample: on_fault, '
                "loglevel, time_limit, word, count, reject, check-at, loud, zone"
            ],
        )

    def test_bad_values(self) -> None:
        """A value that its argument does not take is refused with what it takes."""
        errors = self.errors(
            "sample reject perhaps\n"
            "sample hello some\n"
            "sample zone ..\n"
            "sample loud=very\n"
            "sample:2 on_fault retry\n"
            "sample time_limit soon\n"
        )
        truth = "yes or no (also 1 or 0, true or false, on or off)"
        self.assertEqual(
            errors[:2] + errors[3:5],
            [
                f'TOP/config/plugins:1: "perhaps": expected {truth} for reject',
                'TOP/config/plugins:2: "some": expected a whole number, 0 or more for count',
                f'TOP/config/plugins:4: "very": expected {truth} for loud',
                'TOP/config/plugins:5: "retry": expected tempfail or skip for on_fault',
            ],
        )
        self.assertTrue(errors[2].startswith('TOP/config/plugins:3: "..": '), errors[2])
        self.assertTrue(errors[5].startswith('TOP/config/plugins:6: "soon": '), errors[5])

    def test_missing_value(self) -> None:
        """A name at the end of the line has no value."""
        self.assertEqual(
            self.errors("sample reject\n"),
            ['TOP/config/plugins:1: "reject": expected a value behind reject'],
        )

    def test_missing_argument(self) -> None:
        """A line without a required argument is refused with the argument's name."""
        self.assertEqual(
            self.errors("sub/target:2 there\n"),
            [
                'TOP/config/plugins:1: "sub/target:2 there": '
                "expected the argument size of sub/target:2"
            ],
        )

    def test_component_refuses(self) -> None:
        """Settings that do not go together are refused with the component's own words."""
        self.assertEqual(
            self.errors("sample count 13\n"),
            [
                'TOP/config/plugins:1: "sample count 13": '
                "expected settings that sample can use; 13 brings bad luck"
            ],
        )

    def test_missing_service(self) -> None:
        """A component that needs a service nobody offers is refused."""
        self.assertEqual(
            self.errors("lonely\n"),
            ['TOP/config/plugins:1: "lonely": expected a server that offers INothing to lonely'],
        )

    def test_no_line(self) -> None:
        """A line that is no plugin's name and arguments is refused."""
        for line in ("My::Plugin", "sample 'open", "s\N{LATIN SMALL LETTER A WITH DIAERESIS}"):
            [error] = self.errors(line + "\n")
            self.assertTrue(error.startswith("TOP/config/plugins:1: "), error)

    def test_all_at_once(self) -> None:
        """All that is wrong is told at once: lines, and every line of their control files."""
        errors = self.errors(
            "nowhere\nsample reject perhaps\nclocked\n'\nsub/target\n",
            sample_exempt="fine.example\n-\n..\n",
            sample_level="high\n",
            logging="nobody\n",
        )
        self.assertEqual(
            [error.split(": expected ")[0] for error in errors],
            [
                'TOP/config/logging:1: "nobody"',
                'TOP/config/plugins:1: "nowhere"',
                'TOP/config/sample_exempt:2: "-"',
                'TOP/config/sample_exempt:3: ".."',
                'TOP/config/sample_level:1: "high"',
                'TOP/config/plugins:2: "perhaps"',
                'TOP/config/plugins:4: "\'"',
                'TOP/config/plugins:5: "sub/target"',
            ],
        )

    def test_unreadable(self) -> None:
        """A control file that cannot be read is told like any other error."""
        errors = self.errors("sample\nnowhere\n", sample_exempt="$include gone\n")
        self.assertTrue(errors[0].startswith('TOP/config/sample_exempt:1: "$include gone"'))
        self.assertTrue(errors[1].startswith('TOP/config/plugins:2: "nowhere"'))
