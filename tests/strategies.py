"""Hypothesis strategies that several tests draw from, and the settings under which no test depends on speed."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from stsguard.names import MAX_NAME_OCTETS, Domain, NameInvalid

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

white_space = st.text(" \t", max_size=3)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)


def _is_domain(name: str) -> bool:
    try:
        Domain.parse(name)
    except NameInvalid:
        return False
    return len(name) <= MAX_NAME_OCTETS


host_names = st.lists(labels, min_size=1, max_size=5).map(".".join).filter(_is_domain)
mx_texts = st.tuples(st.sampled_from(["", "*."]), host_names).map("".join)

# Text that comes near the grammars, so that both outcomes are frequent.
_RECORD_PARTS = ["v=STSv1", "v=TLSRPTv1", "id=", "rua=", "mailto:", "https://", ";", ",", "!", "=", "%41", "[::1]"]
_POLICY_PARTS = ["version:", "STSv1", "mode:", "enforce", "none", "max_age:", "86400", "mx:", "\ufeff", "\r", "\r\n"]
_NAME_PARTS = ["example.com", "192.0.2.1", "*.", "*", ".", "-", "a", "é", ":", "@", "/", "?", " ", "\t", "\n", "\x00"]
nearly = st.lists(
    st.one_of(st.sampled_from(_RECORD_PARTS + _POLICY_PARTS + _NAME_PARTS), st.text(max_size=4)), max_size=24
).map("".join)
