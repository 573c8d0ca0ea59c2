"""Wiring: builds adapters and store from the configuration and hands them to the sides. Nothing else does.

One module a program: `outbound` is the daemon, `commands` what the short-lived commands need, `parts` what both use.
Heavy libraries are imported where they are needed, so that small commands and the first answer do not wait for them.
"""
