"""The protocol: octets in, commands out; replies in, octets out. It does no I/O."""
