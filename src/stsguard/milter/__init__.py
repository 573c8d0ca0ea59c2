"""The milter of Postfix (smtpd_milters): takes in report mail, and has the domains of other recipients looked up ahead.

It is a process of its own, since libmilter owns its threads. `mail` decides about one mail, `warming` tells the
outbound daemon of domains, `connection` speaks with Postfix through pymilter; only that needs pymilter.
"""
