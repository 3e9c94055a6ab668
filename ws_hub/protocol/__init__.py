"""The wire protocol: frames, messages and the handshake, without I/O, clocks or locks."""
