"""Reads reports with parsedmarc, in a virtual environment of its own: a list of base64 on standard input, JSON out.

Each item is a report in JSON, or a whole mail; of each comes what parsedmarc makes of it.
"""

import base64
import json
import sys

import parsedmarc


def read(octets: bytes) -> object:
    """parsedmarc's reading of one report."""
    if octets.startswith(b"{"):
        return parsedmarc.parse_smtp_tls_report_json(octets)
    found = parsedmarc.parse_report_email(octets, offline=True)
    assert found["report_type"] == "smtp_tls"
    return found["report"]


json.dump([read(base64.b64decode(item)) for item in json.load(sys.stdin)], sys.stdout)
