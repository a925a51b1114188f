"""Options and their ini twins: what they do, and what is said of values that cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

Ini = Callable[[str], object]

SHOW = """
    import pytest

    def test_config(cluster_config, pytestconfig):
        print("runtime", cluster_config.runtime)
        print("launcher", cluster_config.launcher)
        print("start_timeout", cluster_config.start_timeout)
        print("preload", cluster_config.preload)
"""


def show(pytester: pytest.Pytester, *args: str) -> str:
    pytester.makepyfile(SHOW)
    result = pytester.runpytest_inprocess("-s", *args)
    result.assert_outcomes(passed=1)
    return result.stdout.str()


def test_defaults(pytester: pytest.Pytester) -> None:
    shown = show(pytester)
    assert "runtime native" in shown
    assert "launcher process" in shown
    assert "start_timeout None" in shown
    assert "preload ()" in shown


def test_options(pytester: pytest.Pytester) -> None:
    shown = show(
        pytester,
        "--cluster-runtime=native",
        "--cluster-launcher=thread",
        "--cluster-start-timeout=2.5",
    )
    assert "launcher thread" in shown
    assert "start_timeout 2.5" in shown


def test_ini(pytester: pytest.Pytester, ini: Ini) -> None:
    ini(
        """
cluster_runtime = native
cluster_launcher = thread
cluster_start_timeout = 30
cluster_preload = json
    email.message
"""
    )
    shown = show(pytester)
    assert "launcher thread" in shown
    assert "start_timeout 30.0" in shown
    assert "preload ('json', 'email.message')" in shown


# Each option's ini twin: its value as a string, its value in TOML's own type, its meaning.
TWINS: dict[str, tuple[str, object, object]] = {
    "cluster_runtime": ("native", "native", "native"),
    "cluster_launcher": ("thread", "thread", "thread"),
    "cluster_start_timeout": ("20.5", 20.5, 20.5),
    "cluster_logs": ("all", "all", "all"),
    "cluster_log_dir": ("logs", "logs", "logs"),
    "cluster_port_range": ("23200-23299", "23200-23299", (23200, 23299)),
    "cluster_leak_check": ("warn", "warn", "warn"),
    "cluster_hang_dump": ("60", 60, 60.0),
    "cluster_keep": ("failed", "failed", "failed"),
    "cluster_timeline": ("failed", "failed", "failed"),
    "cluster_preload": ("json email.message", ["json", "email.message"], ("json", "email.message")),
}
ONLY_NINE = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="[tool.pytest] is pytest 9's")

SHOW_ALL = """
    from pytest_localcluster._plugin.options import OPTIONS

    def test_options(pytestconfig):
        options = pytestconfig.stash[OPTIONS]
        found = {**vars(options), **options.fields, "log_dir": options.log_dir.name}
        print({name: found[name.removeprefix("cluster_")] for name in NAMES})
"""


def in_toml(table: str, values: dict[str, object]) -> str:
    scalars = {"asyncio_default_fixture_loop_scope": "function", **values}
    return "\n".join([f"[{table}]", *(f"{name} = {value!r}" for name, value in scalars.items())])


@pytest.mark.parametrize(
    "source",
    [
        "ini",
        "override",
        "tool.pytest.ini_options, strings",
        "tool.pytest.ini_options, typed",
        pytest.param("tool.pytest, typed", marks=ONLY_NINE),
        pytest.param("tool.pytest, numbers as strings", marks=ONLY_NINE),
    ],
)
def test_every_ini_value_is_taken_in_every_form(
    pytester: pytest.Pytester, ini: Ini, source: str
) -> None:
    strings = {name: string for name, (string, _, _) in TWINS.items()}
    typed = {name: value for name, (_, value, _) in TWINS.items()}
    args = []
    table, _, kind = source.partition(", ")
    if source == "ini":
        ini("".join(f"{name} = {value}\n" for name, value in strings.items()))
    elif source == "override":
        args = [f"--override-ini={name}={value}" for name, value in strings.items()]
    elif kind == "typed":
        pytester.makepyprojecttoml(in_toml(table, dict(typed)))
    else:
        preload = {"cluster_preload": typed["cluster_preload"]}
        pytester.makepyprojecttoml(in_toml(table, {**strings, **preload}))
    pytester.makepyfile(SHOW_ALL.replace("NAMES", repr(list(TWINS))))
    result = pytester.runpytest_subprocess("-s", "-Werror", *args)
    result.assert_outcomes(passed=1)
    expected = {name: value for name, (_, _, value) in TWINS.items()}
    assert repr(expected) in result.stdout.str()


@pytest.mark.parametrize(
    "table", ["tool.pytest.ini_options", pytest.param("tool.pytest", marks=ONLY_NINE)]
)
def test_a_cluster_file_in_toml(pytester: pytest.Pytester, path: Path, table: str) -> None:
    pytester.makepyprojecttoml(in_toml(table, {"cluster_attach": str(path)}))
    pytester.makepyfile(
        """
        def test_it(local_cluster):
            assert "attached" in repr(local_cluster.workers[0])
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_no_ini_value_is_left_out(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_inprocess("--help").stdout.str()
    found = set(re.findall(r"^  (cluster_\w+)", shown, re.MULTILINE))
    assert found == {*TWINS, "cluster_attach"}


@pytest.mark.parametrize(
    ("table", "value", "message"),
    [
        ("tool.pytest.ini_options", "cluster_logs = ['all']", "cluster_logs (ini) = ['all']"),
        ("tool.pytest.ini_options", "cluster_preload = [3]", "3 is not the name of one"),
        (
            "tool.pytest.ini_options",
            "cluster_hang_dump = false",
            "cluster_hang_dump (ini) = 'False'",
        ),
        ("tool.pytest", "cluster_logs = 3", "config option 'cluster_logs' expects a string"),
        (
            "tool.pytest",
            "cluster_hang_dump = 0",
            "cluster_hang_dump (ini) = 0: use a number of sec",
        ),
        (
            "tool.pytest",
            "cluster_hang_dump = nan",
            "cluster_hang_dump (ini) = nan: use a number of",
        ),
        (
            "tool.pytest",
            "cluster_start_timeout = -2.5",
            "cluster_start_timeout (ini) = -2.5: start",
        ),
        ("tool.pytest", "cluster_start_timeout = true", "config option 'cluster_start_timeout'"),
        (
            "tool.pytest",
            "cluster_preload = 'json'",
            "config option 'cluster_preload' expects a list",
        ),
    ],
)
def test_a_value_of_a_wrong_type_is_a_usage_error(
    pytester: pytest.Pytester, table: str, value: str, message: str
) -> None:
    if table == "tool.pytest" and pytest.version_tuple < (9, 0):
        pytest.skip("[tool.pytest] is pytest 9's")
    pytester.makepyprojecttoml(f"[{table}]\n{value}\n")
    result = pytester.runpytest_inprocess("-Wignore")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_the_command_line_goes_before_ini(pytester: pytest.Pytester, ini: Ini) -> None:
    ini("cluster_launcher = thread\ncluster_start_timeout = 30\n")
    shown = show(pytester, "--cluster-launcher=process")
    assert "launcher process" in shown
    assert "start_timeout 30.0" in shown


def test_help_lists_both(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--help")
    help_text = result.stdout.str()
    names = ("runtime", "launcher", "start-timeout", "logs", "log-dir", "port-range")
    for name in (*names, "leak-check", "hang-dump"):
        assert f"--cluster-{name}" in help_text
        assert f"ini: cluster_{name.replace('-', '_')}" in " ".join(help_text.split())
    assert "cluster_preload" in help_text


BAD = [
    ("--cluster-runtime", "nativ", ["unknown runtime 'nativ'", "use one of 'native'"]),
    ("--cluster-launcher", "docker", ["unknown launcher 'docker'", "'process', 'thread'"]),
    ("--cluster-start-timeout", "soon", ["'soon' is no time to wait", "seconds above 0"]),
    ("--cluster-start-timeout", "0", ["is no time to wait"]),
    ("--cluster-start-timeout", "nan", ["is no time to wait"]),
    ("--cluster-logs", "some", ["use one of failed, all, none"]),
    ("--cluster-leak-check", "ignore", ["use one of error, warn, off"]),
    ("--cluster-hang-dump", "soon", ["use a number of seconds above 0"]),
    ("--cluster-hang-dump", "0", ["use a number of seconds above 0"]),
    ("--cluster-hang-dump", "nan", ["use a number of seconds above 0"]),
    ("--cluster-hang-dump", "inf", ["use a number of seconds above 0"]),
    ("--cluster-port-range", "20000", ["write it as LOW-HIGH, such as 20000-20999"]),
    ("--cluster-port-range", "300-200", ["LOW must not be above HIGH"]),
    ("--cluster-port-range", "0-99999", ["ports go from 1 to 65535"]),
    ("--cluster-log-dir", "test_it.py/logs", ["test_it.py is a file; name a folder"]),
    ("--cluster-log-dir", "/proc/x/y", ["no file can be made there", "name a folder that you may"]),
    ("--cluster-log-dir", "/proc", ["no file can be made there", "name a folder that you may"]),
]


@pytest.mark.parametrize(("option", "value", "messages"), BAD)
@pytest.mark.parametrize("source", ["option", "ini"])
def test_bad_value(
    pytester: pytest.Pytester,
    ini: Ini,
    source: str,
    option: str,
    value: str,
    messages: list[str],
) -> None:
    pytester.makepyfile(test_it="def test_it(): pass")
    args = []
    if source == "option":
        args, named = [f"{option}={value}"], f"{option} = {value!r}: "
    else:
        name = option.lstrip("-").replace("-", "_")
        ini(f"{name} = {value}\n")
        named = f"{name} (ini) = {value!r}: "
    result = pytester.runpytest_inprocess(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for message in [f"ERROR: {named}", *messages]:
        assert message in result.stderr.str()


def test_bad_value_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess("-n2", "--cluster-launcher=docker")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --cluster-launcher = 'docker': unknown launcher" in result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_bad_preload(pytester: pytest.Pytester, ini: Ini) -> None:
    ini("cluster_preload = my-module\n")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cluster_preload (ini) = 'my-module': preload names modules" in result.stderr.str()


def test_port_range_is_leased_from(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_ports(lease_port):
            ports = [lease_port().port for _ in range(3)]
            assert len(set(ports)) == 3
            assert all(23000 <= port <= 23099 for port in ports)
        """
    )
    pytester.runpytest_inprocess("--cluster-port-range=23000-23099").assert_outcomes(passed=1)


def test_port_range_that_is_too_small(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_ports(lease_port):
            for _ in range(3):
                lease_port()
        """
    )
    result = pytester.runpytest_inprocess("--cluster-port-range=23100-23101")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*PortError: none of the 2 ports of 23100-23101 is free*"])
    result.stdout.fnmatch_lines(["*give --cluster-port-range more ports*"])


def test_the_range_ends_with_the_run(pytester: pytest.Pytester) -> None:
    from pytest_localcluster import _ports

    test_port_range_is_leased_from(pytester)
    assert _ports._range is None


def test_the_folder_for_logs_is_there_from_the_start(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_inprocess("--cluster-log-dir=build/logs").assert_outcomes(passed=1)
    assert list((pytester.path / "build" / "logs").iterdir()) == []


def test_create_local_cluster_begins_with_the_options(pytester: pytest.Pytester, ini: Ini) -> None:
    ini("cluster_start_timeout = 30\ncluster_preload = json\n")
    pytester.makepyfile(
        """
        from pytest_localcluster import create_local_cluster

        def test_it():
            (worker,), _ = create_local_cluster(1, 0)
            config = worker.cluster.config
            assert (config.launcher, config.start_timeout) == ("thread", 30)
            assert config.preload == ("json",)

        def test_its_caller_knows_better():
            (worker,), _ = create_local_cluster(1, 0, start_timeout=20, preload=())
            config = worker.cluster.config
            assert (config.launcher, config.start_timeout) == ("thread", 20)
            assert config.preload == ()
        """
    )
    result = pytester.runpytest_subprocess("--cluster-launcher=thread")
    result.assert_outcomes(passed=2)
