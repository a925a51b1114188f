"""Ray on three hosts with addresses of their own, which here are network namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.hosts import Hosts, three_hosts

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.needs("ray"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with three_hosts() as found:
        yield found


def test_a_cut_host_is_missed_and_found_again(hosts: Hosts) -> None:
    done = hosts.on_first("tests/ray/on_hosts.py", "-k", "not stop", "--cluster-launcher=ray", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_a_stop_does_not_wait_for_a_host_that_is_cut_off(hosts: Hosts) -> None:
    # What cannot be ended is a leak, as long as nobody knows better.
    options = ["-k", "stop", "--cluster-launcher=ray", "--cluster-leak-check=off", "-q"]
    done = hosts.on_first("tests/ray/on_hosts.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_parameter_server_example_trains(hosts: Hosts) -> None:
    example = "conftest_examples/parameter_server"
    done = hosts.on_first(example, "--cluster-launcher=ray", "-v", "-s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d passed", done.stdout)


def test_the_conformance_suite(hosts: Hosts) -> None:
    # TensorFlow's servers know nothing of where they are, and take minutes to tell that.
    done = hosts.on_first("tests/conformance", "-k", "ray and not tensorflow", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 60
