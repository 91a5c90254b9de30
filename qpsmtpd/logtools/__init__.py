"""Tools that read the server's log: ``python -m qpsmtpd log``.

They read logs of the Perl qpsmtpd as well. Nothing here knows Twisted: they are programs of their
own, which may wait for a file.
"""
