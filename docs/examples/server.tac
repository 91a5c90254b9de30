# A server as an application of twistd's. Run it with `twistd -ny server.tac`.
#
# It is Python, so other services of yours can go into the same application.

from twisted.application.service import Application

from qpsmtpd.server.options import ServerOptions
from qpsmtpd.server.service import SMTPService

options = ServerOptions(
    directories=("config",),  # folders with control files
    endpoints=("tcp:2525:interface=127.0.0.1",),
)

application = Application("qpsmtpd")
SMTPService(options).setServiceParent(application)
