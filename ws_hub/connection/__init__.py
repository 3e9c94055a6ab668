"""One client connection: its socket, its reader and writer threads, and its outbox."""
