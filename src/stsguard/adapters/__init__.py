"""Adapters: one outside world each. They turn what libraries raise into our errors at the edge."""
