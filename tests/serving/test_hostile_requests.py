"""The short form of the stress test of hostile requests, and any JSON at all."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stress.hostile_requests import FIELDS, run_trials

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def test_hostile_requests_are_answered_in_the_form_of_the_api():
    figures = run_trials(requests=400, waits=False)
    assert figures["status_200"] > 20
    assert figures["status_400"] > 150
    assert figures["slow_clients"] == 20
    assert figures["drips_200"] + figures["sips_200"] > 5


@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5), path=st.sampled_from(["completions", "score"])
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_fields_get_an_answer(server, fields, path):
    status, answer = server.post(f"/v1/{path}", **{**fields, "stream": False} if path == "completions" else fields)
    assert status in (200, 400, 404)
    if status != 200:
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        json.dumps(answer).encode("ascii")
