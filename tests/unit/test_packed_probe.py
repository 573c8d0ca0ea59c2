"""A packed probe comes back as it was."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import ResultType
from stsguard.core.mxcheck import CertificateFacts, MxProbe
from stsguard.core.packed_probe import has_fault, pack_probe, unpack_probe
from stsguard.names import Domain

NOW = datetime(2026, 11, 28, tzinfo=UTC)
FACTS = CertificateFacts("CN=mx.example", "CN=ca", "mx.example", ("mx.example",), NOW, NOW, "ab" * 32)
texts = st.text(max_size=20)
probes = st.builds(
    MxProbe,
    st.just(Domain("mx.example")),
    st.ip_addresses(),
    st.floats(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.booleans(),
    st.booleans(),
    st.none() | st.sampled_from(ResultType),
    texts,
    st.booleans(),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, FACTS]),
    texts,
)


@given(probes)
def test_a_probe_comes_back_as_it_was(probe: MxProbe) -> None:
    packed = pack_probe(probe)
    assert unpack_probe(packed, probe.mx_hostname, probe.address, probe.certificate) == probe
    assert has_fault(packed) is (probe.result_type is not None)
