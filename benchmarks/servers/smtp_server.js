// nodemailer's smtp-server, without policy: node smtp_server.js PORT MILLISECONDS
// The second argument is how long each RCPT waits before it is accepted.
'use strict';

const { SMTPServer } = require('smtp-server');

const port = Number(process.argv[2]);
const wait = Number(process.argv[3]);

const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    logger: false,
    socketTimeout: 300000,
    onRcptTo(address, session, callback) {
        if (wait) {
            setTimeout(callback, wait);
        } else {
            callback();
        }
    },
    onData(stream, session, callback) {
        stream.resume();
        stream.on('end', callback);
    }
});

server.on('error', error => {
    console.error(error);
});
server.listen(port, '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
