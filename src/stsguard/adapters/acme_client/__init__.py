"""Certificates by ACME (RFC 8555): `authority` orders them, `account` keeps the account."""
