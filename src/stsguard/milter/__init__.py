"""The milter of Postfix (smtpd_milters): takes in report mail, and has the domains of other recipients looked up ahead.

It is a process of its own, so that it runs on MTA hosts that have no `stsguard inbound`, and nothing that those daemons
do is in the way of mail. `mail` decides about one mail, `warming` tells the outbound daemon of domains, `connection`
speaks with an smtpd(8).
"""
