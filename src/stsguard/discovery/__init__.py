"""What a next hop demands: its policy (RFC 8461 §3), its MX hosts and their TLSA records (RFC 7672 §2), and what our
own verification of those hosts found. Both sides use it; it imports ports and core only."""
