"""Bytes and messages: what goes over the wire, with no I/O, no clock and no locks."""
