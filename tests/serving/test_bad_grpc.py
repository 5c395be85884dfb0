"""Bad requests over gRPC: each gets its status and a line that helps, and harms nobody."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tame_deploy.serving.grpc.schema import SERVICE, message
from tests.serving import triton_said
from tests.serving.grpc_probes import INVALID, PROBES, good_request
from tests.serving.unharmed import SECRETS

_INFER = f"/{SERVICE}/ModelInfer"
_STREAM = f"/{SERVICE}/ModelStreamInfer"
_MIB = 2**20
_HEALTH = "grpc.health.v1.Health"


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


def _logits(answer) -> np.ndarray:
    return np.frombuffer(answer.raw_output_contents[0], "<f4")


@pytest.fixture
def unharmed(server, channel, expected):
    """A channel to the shared server, which must answer as well as before afterwards."""
    before = len(server.said)
    yield channel
    data = channel.unary_unary(_INFER)(good_request().SerializeToString(), timeout=20)
    answer = message("ModelInferResponse").FromString(data)
    np.testing.assert_allclose(_logits(answer), expected, atol=1e-4)
    assert server.process.poll() is None
    assert "Traceback" not in server.said[before:]


def failure(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def assert_tells_no_secrets(error: grpc.RpcError) -> None:
    assert not [secret for secret in SECRETS if secret in error.details()]
    assert error.code().name not in ("UNKNOWN", "INTERNAL")


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_bad_request_gets_its_status_and_a_reason(unharmed, probe):
    error = failure(lambda: unharmed.unary_unary(probe.path)(probe.data, timeout=20))
    assert error.code().name == probe.code, error.details()
    assert probe.says in error.details()
    assert 0 < len(error.details()) < 1000
    assert_tells_no_secrets(error)


def test_every_probe_has_a_name_of_its_own():
    names = [probe.name for probe in PROBES]
    assert len(names) == len(set(names))


def test_where_we_differ_from_triton_is_on_purpose():
    ours = {probe.name: probe.code for probe in PROBES}
    assert set(ours) == set(triton_said.GRPC)
    known = {name for names in triton_said.GRPC_DIFFERS.values() for name in names.split()}
    differs = {name for name, code in triton_said.GRPC.items() if ours[name] != code}
    assert differs == known & set(ours)


def test_a_message_that_is_too_large_is_refused(unharmed):
    request = good_request()
    request.raw_input_contents[0] = bytes(65 * _MIB)
    error = failure(lambda: unharmed.unary_unary(_INFER)(request.SerializeToString(), timeout=20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_tells_no_secrets(error)


@pytest.mark.parametrize(
    "compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=["gzip", "deflate"]
)
def test_a_small_message_that_unpacks_to_much_is_refused(server, unharmed, compression):
    before = server.peak_mib
    method = unharmed.unary_unary(_INFER)
    error = failure(lambda: method(bytes(200 * _MIB), timeout=20, compression=compression))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.peak_mib - before < 128


def test_more_fields_than_any_request_has_are_refused_before_they_are_read(unharmed):
    request = good_request()
    for number in range(200_000):
        request.inputs[0].parameters[str(number)].bool_param = True
    error = failure(lambda: unharmed.unary_unary(_INFER)(request.SerializeToString(), timeout=20))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 10000 fields" in error.details()


def test_more_packed_integers_than_the_model_takes_are_refused_before_they_are_read(unharmed):
    request = good_request()
    request.inputs[0].contents.bool_contents.extend(bytes(1_000_000))
    error = failure(lambda: unharmed.unary_unary(_INFER)(request.SerializeToString(), timeout=20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "packed integers" in error.details()


_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
_OTHERS = (f"/{SERVICE}/ServerLive", f"/{SERVICE}/ModelReady", f"/{_HEALTH}/Check",
           f"/{_HEALTH}/Watch", f"/{_REFLECTION}/ServerReflectionInfo")  # fmt: skip


@pytest.mark.parametrize("path", _OTHERS)
@pytest.mark.parametrize(
    ("data", "code", "says"),
    [(b"\xff", INVALID, "cut off"), (b"\x78\x01" * 40_000, "RESOURCE_EXHAUSTED", "80000 bytes")],
    ids=["broken", "many-fields"],
)
def test_messages_without_tensors_are_refused_where_they_are_broken_or_large(
    unharmed, path, data, code, says
):
    error = failure(lambda: list(unharmed.stream_stream(path)(iter([data]), timeout=20)))
    assert error.code().name == code
    assert says in error.details()


def test_a_deadline_that_is_over_at_once_is_told(unharmed):
    data = good_request().SerializeToString()
    # Not a little later: a quick answer comes before gRPC looks at its clock.
    error = failure(lambda: unharmed.unary_unary(_INFER)(data, timeout=0))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_time_in_the_request_that_is_over_at_once_is_told(unharmed):
    request = good_request()
    request.parameters["timeout"].int64_param = 1
    error = failure(lambda: unharmed.unary_unary(_INFER)(request.SerializeToString(), timeout=20))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "time" in error.details()


def test_a_request_that_is_cancelled_harms_nobody(unharmed):
    data = good_request().SerializeToString()
    for _ in range(20):
        unharmed.unary_unary(_INFER).future(data, timeout=20).cancel()


def _streamed(channel, *requests: bytes) -> list:
    read = message("ModelStreamInferResponse").FromString
    return list(channel.stream_stream(_STREAM, None, read)(iter(requests), timeout=20))


def test_bad_requests_of_a_stream_are_answered_in_their_places(unharmed, expected):
    good = good_request().SerializeToString()
    bad = [p for p in PROBES if p.method == "ModelInfer" and p.code == INVALID and p.says]
    bad = [probe for probe in bad if "cut off" not in probe.says]
    mixed = [data for probe in bad for data in (probe.data, good)]
    answers = _streamed(unharmed, *mixed)
    assert len(answers) == len(mixed)
    for probe, refused, answered in zip(bad, answers[::2], answers[1::2], strict=True):
        assert probe.says in refused.error_message
        assert not refused.infer_response.outputs
        assert not answered.error_message
        np.testing.assert_allclose(_logits(answered.infer_response), expected, atol=1e-4)


def test_a_broken_message_in_a_stream_is_refused_alone(unharmed):
    good = good_request().SerializeToString()
    first, second, third = _streamed(unharmed, good, b"\xff" * 50, good)
    assert first.error_message == third.error_message == ""
    assert "cut off" in second.error_message


def test_a_stream_without_requests_ends(unharmed):
    assert _streamed(unharmed) == []


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_says_that_it_serves(channel, service):
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service_is_not_found(channel):
    request = health_pb2.HealthCheckRequest(service="other")
    error = failure(lambda: health_pb2_grpc.HealthStub(channel).Check(request, timeout=20))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def _reflected(channel, **fields):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(**fields)
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=20)
    return answer


def test_reflection_lists_the_services(channel):
    found = _reflected(channel, list_services="").list_services_response.service
    assert {one.name for one in found} >= {SERVICE, _HEALTH}


@pytest.mark.parametrize("symbol", [SERVICE, "inference.ModelInferRequest", _HEALTH])
def test_reflection_describes_what_it_lists(channel, symbol):
    found = _reflected(channel, file_containing_symbol=symbol)
    assert found.file_descriptor_response.file_descriptor_proto


def test_reflection_of_an_unknown_name_is_an_error(channel):
    answer = _reflected(channel, file_containing_symbol="no.such.Thing").error_response
    assert answer.error_code == grpc.StatusCode.NOT_FOUND.value[0]
