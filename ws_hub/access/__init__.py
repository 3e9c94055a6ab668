"""Access control: authentication, admission of handshakes, quotas, and trusted proxies."""
