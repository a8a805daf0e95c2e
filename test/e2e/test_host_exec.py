"""tsctl host-exec: the remote command as if it were here."""
import concurrent.futures
import hashlib
import os
import signal
import subprocess

import pytest
from lab import FULL, SAN, Pty, run, wait_for

pytestmark = pytest.mark.tunnel


# The seed's examples, as they stand there (a guest without certificates).

def test_seed_ls(lab, plain_guest):
    r = lab.host_exec("--", "ls", "-la", guest=plain_guest, flags=["--insecure"])
    assert r.stdout.startswith("total ") and r.stderr == ""


def test_seed_script(lab, plain_guest):
    app = lab.path("app")
    os.makedirs(app, exist_ok=True)
    with open(app + "/deploy.sh", "w") as f:
        f.write("#!/bin/sh\necho deployed in $PWD\n")
    os.chmod(app + "/deploy.sh", 0o755)
    r = lab.host_exec("--", "bash", "-c", f"cd {app} && ./deploy.sh", guest=plain_guest, flags=["--insecure"])
    assert r.stdout == f"deployed in {app}\n"


def test_seed_environment(lab, plain_guest):
    r = lab.host_exec("-e", "ENV=production", "-e", "DEBUG=false", "--", "printenv", guest=plain_guest,
                      flags=["--insecure"])
    assert {"ENV=production", "DEBUG=false"} <= set(r.stdout.splitlines())


# With mutual TLS.

def test_runs_on_the_other_host(lab):
    assert lab.host_exec("--", "hostname").stdout == "remote-host\n" != run("hostname").stdout


def test_streams_apart_and_byte_exact(lab):
    data = bytes(range(256)) * 4000
    r = lab.host_exec("--", "sh", "-c", "tee /dev/stderr", input=data, text=False)
    assert r.stdout == data and r.stderr == data


def test_stderr_alone(lab):
    r = lab.host_exec("--", "sh", "-c", "echo only here >&2")
    assert (r.stdout, r.stderr) == ("", "only here\n")


@pytest.mark.parametrize("status", [0, 1, 2, 42, 125, 255])
def test_exit_status(lab, status):
    assert lab.host_exec("--", "sh", "-c", f"exit {status}", check=False).returncode == status


def test_status_of_a_missing_program(lab):
    r = lab.host_exec("--", "no-such-program-here", check=False)
    assert r.returncode == 127 and "no-such-program-here" in r.stderr and r.stdout == ""


def test_status_of_a_file_that_is_no_program(lab):
    path = lab.path("not-executable")
    with open(path, "w") as f:
        f.write("text")
    r = lab.host_exec("--", path, check=False)
    assert r.returncode == 126 and path in r.stderr


@pytest.mark.parametrize("signo", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_status_of_a_signal(lab, signo):
    r = lab.host_exec("--", "sh", "-c", f"kill -{int(signo)} $$", check=False)
    assert r.returncode == 128 + signo


def test_status_when_the_tunnel_fails(lab):
    r = run(*lab.host_exec_argv("--", "true", flags=["--server-addr", "127.0.0.1:1"]), env=lab.env, check=False)
    assert r.returncode == 255


def test_no_command_is_a_usage_error(lab):
    r = lab.host_exec(check=False)
    assert r.returncode != 0 and len(r.stderr.splitlines()) == 1 and "--help" in r.stderr


def test_arguments_arrive_as_they_are(lab):
    args = ["", " ", "a b", "$HOME", "*", "'\"\\", "ü€", "-x", "--", "line\nbreak"]
    r = lab.host_exec("--", "printf", "%s\\0", *args)
    assert r.stdout.split("\0")[:-1] == args


def test_working_directory(lab):
    assert lab.host_exec("-w", "/usr/share", "--", "pwd").stdout == "/usr/share\n"
    r = lab.host_exec("-w", "/no/such/dir", "--", "pwd", check=False)
    assert r.returncode in (126, 127) and "/no/such/dir" in r.stderr


def test_stdin_from_closed_and_from_null(lab):
    assert lab.host_exec("--", "cat").stdout == ""
    assert lab.host_exec("--", "sh", "-c", "cat; echo after", input="x").stdout == "xafter\n"


def test_command_that_does_not_read_stdin(lab):
    r = lab.host_exec("--", "true", input=b"z" * 3_000_000, text=False)
    assert r.returncode == 0


def test_stdout_reader_that_goes_away(lab):
    """host-exec … | head -1: ends soon, and so does the remote command."""
    argv = lab.host_exec_argv("--", "sh", "-c", "exec yes head-goes-away")
    p = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=lab.env)
    assert p.stdout.readline() == b"head-goes-away\n"
    p.stdout.close()
    p.wait(10)
    wait_for(lambda: not _running("head-goes-away"), 10, "remote yes ends")


def _running(word):
    """Pids of processes, on any host of the lab, with the word in their arguments (host-exec
    itself not counted)."""
    pids = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            cmd = open(f"/proc/{pid}/cmdline", "rb").read()
        except OSError:
            continue
        if word.encode() in cmd and b"host-exec" not in cmd:
            pids.append(int(pid))
    return pids


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_remote_group(lab, signo):
    """Delivered to the group: the shell's trap runs, and its child gets it too."""
    word = "120%d.%d" % (signo, os.getpid())
    script = f"trap 'echo caught; exit 77' {signo.name[3:]}; echo ready; sleep {word} & wait; wait"
    p = subprocess.Popen(lab.host_exec_argv("--", "sh", "-c", script), env=lab.env, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    wait_for(lambda: _running("sleep\0" + word), 5, "remote sleep")
    p.send_signal(signo)
    out, err = p.communicate(timeout=15)
    assert (p.returncode, out) == (77, b"caught\n"), err
    if signo == signal.SIGTERM:  # a background job of a shell script ignores SIGINT
        wait_for(lambda: not _running("sleep\0" + word), 5, "its child ends")


def test_untrapped_signal_is_the_status(lab):
    p = subprocess.Popen(lab.host_exec_argv("--", "sh", "-c", "echo ready; exec sleep 1000"), env=lab.env,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=15)
    assert p.returncode == 130


@pytest.mark.parametrize("how", ["killed", "network"])
def test_remote_process_dies_with_the_client(lab, how):
    word = f"13{len(how)}.{os.getpid()}"
    if how == "network" and not FULL:
        pytest.skip("waits for keepalive: TSLAB_FULL=1")
    p = subprocess.Popen(lab.host_exec_argv("--", "sh", "-c", f"echo ready; sleep {word}; sleep {word}"), env=lab.env,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    wait_for(lambda: _running("sleep\0" + word), 5, "remote sleep")
    if how == "killed":
        p.kill()
        wait_for(lambda: not _running(word), 15, "remote processes end")
    else:
        run("ip", "link", "set", "ts0", "down")
        try:
            wait_for(lambda: not _running(word), 120, "remote processes end")
            assert p.wait(60) == 255
        finally:
            run("ip", "link", "set", "ts0", "up")
    p.kill()
    p.communicate()


def test_remote_process_dies_when_the_guest_is_killed_hard(lab):
    """The client says 255 at once."""
    g = lab.start_guest()
    p = subprocess.Popen(lab.host_exec_argv("--", "sh", "-c", "echo ready; exec sleep 1000", guest=g), env=lab.env,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    g.kill()
    _, err = p.communicate(timeout=10)
    assert p.returncode == 255 and len(err.splitlines()) == 1


def test_terminal(lab):
    p = Pty(lab.host_exec_argv("-t", "--", "sh"), lab.env, rows=33, cols=101)
    try:
        p.send("stty size; tty; echo do''ne\n")
        text = p.expect("done\r\n")
        assert b"33 101" in text and b"/dev/pts/" in text
        p.resize(12, 34)

        def resized():
            p.send("stty size; echo do''ne\n")
            return b"12 34" in p.expect("done\r\n")
        wait_for(resized, 10, "new size")
        word = "1000.%d" % os.getpid()
        p.send(f"sleep {word}\n")
        wait_for(lambda: _running("sleep\0" + word), 5, "remote sleep")
        p.send(b"\x03")
        p.send("echo still he''re; exit 9\n")
        p.expect("still here")
        assert p.wait() == 9
    finally:
        p.close()


def test_terminal_is_restored(lab):
    """After -t the local terminal is as it was."""
    script = 'before=$(stty -g); "$@"; [ "$before" = "$(stty -g)" ] && echo sa""me'
    p = Pty(["sh", "-c", script, "sh"] + lab.host_exec_argv("-t", "--", "true"), lab.env)
    try:
        p.expect("same")
    finally:
        p.close()


MB = 200 if FULL or not SAN else 20


def test_200_mb_down(lab):
    script = f"head -c {MB}000000 /dev/urandom | tee /dev/fd/3 | sha256sum >&2"
    p = subprocess.Popen(lab.host_exec_argv("--", "bash", "-c", f"exec 3>&1; {script}"), env=lab.env,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    digest, n = hashlib.sha256(), 0
    while chunk := p.stdout.read(1 << 20):
        digest.update(chunk)
        n += len(chunk)
    assert p.wait(20) == 0 and n == MB * 1_000_000
    assert p.stderr.read().split()[0].decode() == digest.hexdigest()


def test_200_mb_up(lab):
    p = subprocess.Popen(lab.host_exec_argv("--", "sha256sum"), env=lab.env, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    digest, block = hashlib.sha256(), os.urandom(1_000_000)
    for i in range(MB):
        part = block[i:] + block[:i]
        digest.update(part)
        p.stdin.write(part)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0, err
    assert out.split()[0].decode() == digest.hexdigest()
    if not SAN:
        assert lab.guest.memory() < 32, "peak memory of guest in MiB"


def test_both_ways_at_once(lab):
    data = os.urandom(30_000_000)
    assert lab.host_exec("--", "cat", input=data, text=False).stdout == data


def test_100_at_once(lab):
    argv = [lab.host_exec_argv("--", "sh", "-c", f"cat; echo {i}; exit {i}") for i in range(100)]
    procs = [subprocess.Popen(a, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
             for a in argv]
    bad = []
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        def finish(i):
            out, err = procs[i].communicate(b"in%d " % i, timeout=120)
            if (procs[i].returncode, out) != (i, b"in%d %d\n" % (i, i)):
                bad.append((i, procs[i].returncode, out, err[-300:]))
        list(pool.map(finish, range(100)))
    assert not bad, f"{len(bad)} of 100: {bad[:3]}"


def test_no_exec_policy(lab):
    g = lab.start_guest("--no-exec")
    r = lab.host_exec("--", "true", guest=g, check=False)
    assert r.returncode == 255 and len(r.stderr.splitlines()) == 1
    assert "exec" in r.stderr


def test_missing_client_files_name_the_flag(lab):
    r = lab.host_exec("--", "true", flags=["--cert", lab.pki.crt("client")], check=False)
    assert r.returncode != 0 and "--key" in r.stderr
