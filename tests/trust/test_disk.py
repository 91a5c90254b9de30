"""Disks that are full, and folders that are gone: refusals, and recovery."""

import os
import resource
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.server.processes import Server
from tests.trust.load import Client, Load, message, stored
from tests.trust.servers import TrustTestCase, descriptors

#: More than a full disk has room for, whichever of the two it is.
LARGE = 150_000


class SmallDisk:
    """A file system of its own, which root may mount."""

    def __init__(self, case: SynchronousTestCase, folder: Path) -> None:
        self._filler = folder / "filler"
        options = ["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs"]
        subprocess.run(["mount", *options, str(folder)], check=True)
        case.addCleanup(subprocess.run, ["umount", "--lazy", str(folder)], check=True)

    def fill(self, server: Server) -> None:
        with self._filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(65536)):
                    pass
            except OSError:
                pass

    def free(self, server: Server) -> None:
        self._filler.unlink()


class SmallFiles:
    """For those who may not mount: the server may write no large file."""

    def __init__(self, case: SynchronousTestCase, folder: Path) -> None:
        pass

    def fill(self, server: Server) -> None:
        self._limit(server, 65536)

    def free(self, server: Server) -> None:
        self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server: Server, size: int) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


Disk = SmallDisk if os.geteuid() == 0 else SmallFiles


class FullDiskTests(TrustTestCase):
    def test_maildir(self) -> None:
        """On a full disk messages get 452, and are taken when there is space again."""
        maildir = self.folder / "Maildir"
        maildir.mkdir()
        disk = Disk(self, maildir)
        server = self.start()
        with Client(server.port()) as client:
            self.assertEqual(client.mail(message("before", LARGE))[0], 250)
            disk.fill(server)
            for size in (LARGE, LARGE + 1):
                code, text = client.mail(message("refused", size))
                self.assertEqual((code, text[:5]), (452, "4.3.1"))
            self.assertEqual(list((maildir / "tmp").iterdir()), [])
            disk.free(server)
            self.assertEqual(client.mail(message("after", LARGE))[0], 250)
            client.quit()
        self.assertEqual(sorted(stored(maildir)), ["after", "before"])

    def test_spool(self) -> None:
        """When the spool's disk is full messages get 452, and no file is left to keep it so."""
        spool = self.folder / "spool"
        disk = Disk(self, spool)
        server = self.start()
        with Client(server.port()) as client, Client(server.port()) as other:
            disk.fill(server)
            for _ in range(2):
                code, text = client.mail(message("refused", LARGE))
                self.assertEqual((code, text[:5]), (452, "4.3.1"))
                self.assertEqual(list(spool.glob("*.spool")), [])
            # What fits into memory needs no spool.
            self.assertEqual(other.mail(message("small", 1000))[0], 250)
            disk.free(server)
            self.assertEqual(client.mail(message("after", LARGE))[0], 250)
            self.assertEqual(list(spool.glob("*.spool")), [])
            client.quit()
        self.assertEqual(sorted(stored(self.folder / "Maildir")), ["after", "small"])

    def test_load(self) -> None:
        """A disk that fills up under load and has space again loses and doubles nothing."""
        maildir = self.folder / "Maildir"
        maildir.mkdir()
        disk = Disk(self, maildir)
        server = self.start()
        load = Load(server.port(), "full", clients=4, largest=2 * LARGE)
        self.addCleanup(load.stop)
        for _ in range(3):
            load.wait_for(len(load.accepted) + 10)
            disk.fill(server)
            load.wait_for_refused(len(load.refused) + 4)
            disk.free(server)
        load.wait_for(len(load.accepted) + 10)
        load.stop()
        self.assertEqual({said[:9] for said in load.refused.values()}, {"452 4.3.1"})
        self.assertEqual(sorted(stored(maildir)), sorted(load.accepted))
        self.assertEqual(list((maildir / "tmp").iterdir()), [])


class FolderTests(TrustTestCase):
    """A folder whose place a file has taken can be written by nobody, root included."""

    def test_maildir(self) -> None:
        """While the Maildir cannot be written messages get 451, and later they are taken."""
        maildir = self.folder / "Maildir"
        server = self.start()
        with Client(server.port()) as client:
            self.assertEqual(client.mail(message("before", 100))[0], 250)
            held = descriptors(server.pid)
            new, away = maildir / "new", maildir / "away"
            new.rename(away)
            new.touch()
            code, text = client.mail(message("refused", 100))
            self.assertEqual((code, text[:5]), (451, "4.3.0"))
            self.assertEqual(list((maildir / "tmp").iterdir()), [])
            new.unlink()
            away.rename(new)
            self.assertEqual(client.mail(message("after", 100))[0], 250)
            self.assertEqual(descriptors(server.pid), held)
            client.quit()
        self.assertEqual(sorted(stored(maildir)), ["after", "before"])

    def test_maildir_removed(self) -> None:
        """A Maildir that was removed is made again."""
        maildir = self.folder / "Maildir"
        server = self.start()
        with Client(server.port()) as client:
            self.assertEqual(client.mail(message("before", 100))[0], 250)
            maildir.rename(self.folder / "away")
            self.assertEqual(client.mail(message("after", 100))[0], 250)
            client.quit()
        self.assertEqual(stored(maildir), ["after"])

    def test_spool(self) -> None:
        """While the spool cannot be written large messages get 451, and later they are taken."""
        spool = self.folder / "spool"
        server = self.start()
        with Client(server.port()) as client:
            spool.rmdir()
            spool.touch()
            code, text = client.mail(message("refused", LARGE))
            self.assertEqual((code, text[:5]), (451, "4.3.0"))
            self.assertEqual(client.mail(message("small", 100))[0], 250)
            spool.unlink()
            spool.mkdir()
            self.assertEqual(client.mail(message("after", LARGE))[0], 250)
            client.quit()
        self.assertEqual(sorted(stored(self.folder / "Maildir")), ["after", "small"])
