"""One socket and its two threads: reading, writing, the outbox, and adoption from a server."""
