"""The sending side: answers Postfix's look-ups (later also: hears about sessions, sends reports)."""
