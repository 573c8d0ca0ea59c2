"""The receiving side: our own domains' policies, certificates, roll-out, and the reports on them."""
