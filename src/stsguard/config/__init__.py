"""Configuration: one TOML file, read against one table of options. See `options` and `load`."""
