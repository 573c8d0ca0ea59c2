"""Times parsedmarc, in a virtual environment of its own, on the reports of bench/intake.py.

What it is called by is what its documentation offers for such an input: parse_report_file for a file's octets, which
finds out what kind of report they hold, as ours does for what it unpacks. "unpacked" is less than any user of it can
have: its inner steps for a file of which it is known already that it is a TLS report.

Standard input: one line of JSON, the files by kind in base64; then one kind a line. To each of these a line
answers: the seconds of processor time that parsing them took, and how many there were.
"""

import base64
import json
import logging
import sys
import time

import parsedmarc

logging.disable(logging.CRITICAL)
PARSERS = {
    "json": parsedmarc.parse_smtp_tls_report_json,
    "gzip": lambda octets: parsedmarc.parse_report_file(octets, offline=True)["report"],
    "unpacked": lambda octets: parsedmarc.parse_smtp_tls_report_json(parsedmarc.extract_report(octets)),
    "mail": lambda octets: parsedmarc.parse_report_email(octets, offline=True)["report"],
}

kinds = {kind: [base64.b64decode(each) for each in files] for kind, files in json.loads(sys.stdin.readline()).items()}
for line in sys.stdin:
    kind = line.strip()
    parse = PARSERS[kind]
    started = time.process_time()
    found = [parse(octets) for octets in kinds[kind]]
    seconds = time.process_time() - started
    assert all(report["policies"] for report in found)
    print(seconds, len(found), flush=True)
