"""Fixtures; lab.py has the laboratory itself."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from lab import BIN, CLIS, DIRECT, Docker, Lab, UnixHTTP  # noqa: E402

_lab = None


def pytest_configure(config):
    config.addinivalue_line("markers", "tunnel: needs tsctl and guest, cannot run with TSLAB_DIRECT=1")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
    if os.geteuid() != 0:
        raise pytest.UsageError("the end-to-end tests make namespaces and run a dockerd: root is needed")
    missing = [p for p in ("tsctl", "guest") if not os.access(os.path.join(BIN, p), os.X_OK)]
    if missing and not DIRECT:
        raise pytest.UsageError(f"no {' and '.join(missing)} in {BIN}; TSTUNNEL_BIN names the folder")


def pytest_collection_modifyitems(items):
    if DIRECT:
        for item in items:
            if item.get_closest_marker("tunnel"):
                item.add_marker(pytest.mark.skip(reason="TSLAB_DIRECT: no tunnel"))


@pytest.fixture(scope="session")
def session_lab():
    global _lab
    lab = _lab = Lab()
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
    assert not lab.final_reports, "\n".join(lab.final_reports)


@pytest.fixture
def lab(session_lab):
    """The lab with its standing tunnel; containers of the test are removed afterwards, extra
    programs stopped."""
    if not DIRECT:
        session_lab.ensure_tunnel()
    yield session_lab
    for p in session_lab.programs:
        if not p.keep and p.alive():
            p.stop()
    if CLIS:
        engine = UnixHTTP(session_lab.engine_socket)
        for c in engine.get("/containers/json?all=1"):
            engine.request("DELETE", f"/containers/{c['Id']}?force=1&v=1")


@pytest.fixture(params=CLIS, ids=["cli-new" if "local" in c else "cli-debian" for c in CLIS])
def docker(request, lab):
    """The docker CLI, every one that this machine has."""
    return Docker(lab, request.param)


@pytest.fixture
def docker1(lab):
    """The docker CLI, one of them: for what does not depend on its version."""
    if not CLIS:
        pytest.skip("no docker CLI")
    return Docker(lab)


@pytest.fixture
def debian_docker(lab):
    if "/usr/bin/docker" not in CLIS:
        pytest.skip("no /usr/bin/docker")
    return Docker(lab, "/usr/bin/docker")


@pytest.fixture
def plain_guest(lab):
    """A guest without certificates, for anybody."""
    return lab.ensure_plain_guest()


@pytest.fixture
def engine(lab):
    return UnixHTTP(lab.engine_socket)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What our programs logged during a test is shown when it fails."""
    global _lab
    if call.when == "setup" and _lab:
        item.log_marks = {p.log: os.path.getsize(p.log) for p in _lab.programs}
    outcome = yield
    report = outcome.get_result()
    if report.failed and _lab and os.path.isdir(_lab.dir):
        marks = getattr(item, "log_marks", {})
        for p in _lab.programs:
            if p.name == "dockerd" or not os.path.exists(p.log):
                continue
            text = p.text()[marks.get(p.log, 0):]
            if text:
                report.sections.append((f"{p.name} {os.path.basename(p.log)}", text[-3000:]))
