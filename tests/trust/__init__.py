"""What operators have to be able to trust: real processes, real sockets, and bad luck."""
