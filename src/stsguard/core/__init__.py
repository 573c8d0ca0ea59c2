"""The pure core: bytes and values in, bytes and values out. No sockets, no clock, no configuration."""
