"""What wrk prints is read rightly, and the tiny model is one that onnxruntime takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import tiny, wrk

SAID = """Running 5s test @ http://127.0.0.1:8080/v2/models/tiny/infer
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.20ms  300.00us  12.00ms   91.00%
    Req/Sec    25.00k     1.00k   27.00k    80.00%
  Latency Distribution
     50%  850.00us
     75%    1.30ms
     90%    1.50ms
     99%    2.10ms
  124500 requests in 5.00s, 30.00MB read
"""
BAD = """  Socket errors: connect 1, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 4
"""
LAST = "Requests/sec:  24900.50\nTransfer/sec:      6.00MB\n"


def test_what_wrk_says_is_read_in_milliseconds() -> None:
    found = wrk.read(SAID + LAST)
    assert found == {"requests": 124500, "per_s": 24900.5, "p50": 0.85, "p99": 2.1, "errors": 0}


def test_answers_that_are_none_are_counted() -> None:
    assert wrk.read(SAID + BAD + LAST)["errors"] == 10


def test_a_wrk_that_says_no_rate_is_an_error() -> None:
    with pytest.raises(SystemExit, match="no rate"):
        wrk.read("unable to connect")


def test_the_tiny_model_is_a_product_and_a_sum(tmp_path: Path) -> None:
    asked = tiny.model(tmp_path)
    assert (asked.input.shape, asked.output.shape) == ((None, 16), (None, 4))
    zero, one = np.zeros((1, 16), np.float32), np.ones((1, 16), np.float32)
    assert asked.run(zero).shape == (1, 4)
    assert not np.allclose(asked.run(zero), asked.run(one))
