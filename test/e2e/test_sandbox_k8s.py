"""pico-apiserver with backend kubernetes, against kube_server.py: a stand-in, no real cluster."""
import base64
import json
import os
import re
import shutil
import time

import pytest
import yaml

from kube_server import Kube
from lab import ROOT, run, wait_for
from sandboxes import Api, banner

PORT = 2222  # all "pods" share a network namespace with whatever sshd there may be


@pytest.fixture
def kube(request, session_lab):
    k = Kube(session_lab.pki, agents=getattr(request, "param", ()))
    yield k
    k.close()


@pytest.fixture
def start(kube, session_lab, tmp_path):
    made = []

    def begin(*flags, config=None, backend="kubernetes", state=None, env=None):
        path = tmp_path / f"kubeconfig-{len(made)}"
        path.write_text(config if config is not None else token_config(kube, session_lab.pki))
        argv = [] if config == "" else ["--kubeconfig", str(path)]
        a = Api(tmp_path, *argv, "--ssh-port", str(PORT), "--log-level", "debug", "--ready-timeout", "15s", *flags, backend=backend, state=state, env=env)
        made.append(a)
        return a
    yield begin
    for a in reversed(made):  # the earlier ones were ended by their tests
        if a.proc.poll() is not None and kube.objects["pods"]:
            a.start()
        if a.proc.poll() is None:
            for s in a.sessions():
                a.request("DELETE", f"/v1/sessions/{s['session_id']}")
            # what failed is removed behind the scenes
            wait_for(lambda: not kube.objects["pods"] and not kube.objects["sandboxes"], 20, "all removed")
            a.end()
    assert not kube.objects["pods"] and not kube.objects["sandboxes"]


def b64(path):
    return base64.b64encode(open(path, "rb").read()).decode()


def token_config(kube, pki, user="    token: good-token\n", ca=None, server=None):
    """As kubectl config set-cluster and so on write it."""
    ca = ca or f"certificate-authority-data: {b64(pki.crt('ca'))}"
    return f"""apiVersion: v1
clusters:
- cluster:
    {ca}
    server: {server or f'https://127.0.0.1:{kube.port}'}
  name: test
contexts:
- context:
    cluster: test
    user: me
  name: test
current-context: test
kind: Config
preferences: {{}}
users:
- name: me
  user:
{user}"""


def status(api, session):
    return api.request("GET", f"/v1/sessions/{session}").json.get("status")


def both(kube):
    return pytest.mark.parametrize("kube", kube, indirect=True, ids=lambda v: "+".join(v) or "pods")


@both([(), ("v1alpha1",), ("v1alpha1", "v1beta1")])
def test_create_login_delete(kube, start):
    api = start("--runtime-class-name", "gvisor", "--sandbox-cpu", "500")
    s = api.create(ttl=1000)
    sid, name = s["session_id"], s["sandbox_name"]
    assert api.ssh(sid, "whoami; pwd; hostname").stdout.split() == [b"sandbox", b"/workspace", name.encode()]
    (body,) = kube.created
    labels = body["metadata"]["labels"]
    assert (labels["managed-by"], labels["session-id"], labels["sandbox"]) == ("pico-apiserver", sid, name)
    pod = body["spec"] if not kube.agents else body["spec"]["podTemplate"]["spec"]
    assert pod["runtimeClassName"] == "gvisor" and pod["containers"][0]["image"] == "sandbox:latest"
    assert pod["containers"][0]["resources"]["limits"] == {"memory": str(1 << 30), "cpu": "500m"}
    assert pod["automountServiceAccountToken"] is False
    if not kube.agents:
        assert 1000 < pod["activeDeadlineSeconds"] <= 1060
    else:
        shutdown = time.mktime(time.strptime(body["spec"]["shutdownTime"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert 990 < shutdown - time.time() <= 1060 and body["spec"]["shutdownPolicy"] == "Delete"
        assert body["apiVersion"].endswith(kube.agents[-1])
    # what cannot be removed is not said to be gone, and can be tried again
    kube.forbidden.add(("delete", "sandboxes" if kube.agents else "pods"))
    r = api.request("DELETE", f"/v1/sessions/{sid}")
    assert r.status == 502 and "cannot delete" in r.json["message"], r.body
    assert status(api, sid) == "failed"
    kube.forbidden.clear()
    assert api.request("DELETE", f"/v1/sessions/{sid}").status == 200
    assert not kube.objects["pods"] and not kube.objects["sandboxes"]


def test_commands_and_public_key(kube, start, tmp_path):
    api = start()
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    s = api.create(sshPublicKey=(tmp_path / "key.pub").read_text().strip())["session_id"]
    assert api.ssh(s, "whoami", "-i", str(tmp_path / "key"), "-o", "PasswordAuthentication=no").stdout == b"sandbox\n"
    assert b"Permission denied" in api.ssh(s, "whoami", "-o", "PubkeyAuthentication=no").stderr
    r = api.run(s, "echo $((6 * 7))")
    assert r["stdout"] == "42\n", r


def test_slow_to_get_ready(kube, start):
    kube.pending = 2
    api = start()
    t = time.monotonic()
    s = api.create()["session_id"]
    assert time.monotonic() - t >= 2
    assert banner(api, s).startswith(b"SSH-2.0-")


def test_never_ready(kube, start):
    kube.pending = 60
    api = start("--ready-timeout", "1s")
    r = api.request("POST", "/v1/sessions")
    assert r.status in (202, 503, 504), r.body
    kube.pending = 0


def test_watch_goes_on_after_the_end_of_a_connection(kube, start):
    """And after the cluster has forgotten where it was."""
    api = start()
    api.create()
    for forget in (kube.drop_watches, kube.compact, kube.drop_watches):
        forget()
        assert banner(api, api.create()["session_id"]).startswith(b"SSH-2.0-")
    lists = [p for m, p in kube.requests if m == "GET" and "pico-server" in p and "watch" not in p]
    # one for the start's list of sandboxes, one for the watch, one after 410; and not one a watch
    assert len(lists) == 3, lists


def test_bookmarks_save_a_list(kube, start):
    """The versions of other objects pass; the watch resumes behind them."""
    api = start()
    api.create()
    with kube.lock:
        kube.version += 100
    before = len([1 for m, p in kube.requests if "watch=1" in p])
    kube.drop_watches()
    wait_for(lambda: len([1 for m, p in kube.requests if "watch=1" in p]) > before, 10, "watches again")
    assert banner(api, api.create()["session_id"]).startswith(b"SSH-2.0-")


@both([("v1beta1",), ("v1alpha1",)])
def test_pause_and_resume(kube, start):
    api = start()
    s = api.create()
    sid, name = s["session_id"], s["sandbox_name"]
    kube.conflicts = 2
    assert api.request("POST", f"/v1/sessions/{sid}/pause").status == 200
    assert kube.suspended(kube.objects["sandboxes"][name]) and name not in kube.objects["pods"]
    assert api.request("POST", f"/v1/sessions/{sid}/resume").status == 200
    assert api.ssh(sid, "echo up", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null").stdout == b"up\n"
    assert api.request("POST", f"/v1/sessions/{sid}/pause").status == 200
    assert banner(api, sid).startswith(b"SSH-2.0-")


def test_a_plain_pod_cannot_be_paused(kube, start):
    api = start()
    s = api.create()["session_id"]
    r = api.request("POST", f"/v1/sessions/{s}/pause")
    assert r.status in (409, 501) and "agents.x-k8s.io" in r.json["message"], r.body
    assert status(api, s) == "running" and banner(api, s).startswith(b"SSH-2.0-")


def test_evicted(kube, start):
    api = start()
    s = api.create()
    kube.fail_pod(s["sandbox_name"])
    wait_for(lambda: status(api, s["session_id"]) == "failed", 10, "the end is seen")
    assert "low on resource" in api.text()


def test_deleted_while_nobody_watched(kube, start):
    api = start()
    s = api.create()
    with kube.lock:
        kube.kill_pod(s["sandbox_name"])
        del kube.objects["pods"][s["sandbox_name"]]
        kube.compacted = kube.version = kube.version + 1
        kube.cut += 1
        kube.lock.notify_all()
    wait_for(lambda: status(api, s["session_id"]) == "failed", 10, "the list shows it")


@both([("v1beta1",)])
def test_a_sandbox_outlives_its_pod(kube, start):
    api = start()
    s = api.create()
    kube.delete("pods", s["sandbox_name"])

    def again():
        r, rest = api.connect(s["session_id"])
        if rest is None:
            return False
        r.settimeout(5)
        try:
            return (rest or r.recv(100)).startswith(b"SSH-2.0-")
        except OSError:
            return False
        finally:
            r.close()
    wait_for(again, 15, "the new pod's sshd")
    assert status(api, s["session_id"]) == "running"


def test_no_such_image(kube, start):
    kube.waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nope:1"'}
    api = start()
    r = api.request("POST", "/v1/sessions", {"image": "nope:1"})
    assert r.status == 503 and 'pulling image "nope:1"' in r.json["message"], r.body


@pytest.mark.parametrize("what", ["create", "watch", "list"])
def test_forbidden(kube, start, what):
    kube.forbidden = {(what, "pods")}
    api = start()
    r = api.request("POST", "/v1/sessions")
    assert r.status >= 500 and "403" in r.json["message"], r.body
    if what == "create":
        assert 'cannot create resource "pods"' in r.json["message"] and "deploy/pico-apiserver.yaml" in r.json["message"]
    kube.forbidden = set()


def test_wrong_token(kube, start, session_lab):
    api = start(config=token_config(kube, session_lab.pki, "    token: bad\n"))
    r = api.request("POST", "/v1/sessions")
    assert r.status >= 500 and "401" in r.json["message"], r.body
    kube.tokens.add("bad")


def test_cluster_of_another_ca(kube, start, session_lab):
    pki = session_lab.pki
    api = start(config=token_config(kube, pki, ca=f"certificate-authority-data: {b64(pki.crt('other-ca'))}"))
    r = api.request("POST", "/v1/sessions")
    assert r.status >= 500 and "unknown authority" in r.json["message"], r.body
    api.proc.kill()
    api.proc.wait()


def test_ways_to_say_who_we_are(kube, start, session_lab, tmp_path):
    pki = session_lab.pki
    (tmp_path / "token").write_text("good-token\n")
    shutil.copy(pki.crt("ca"), tmp_path / "ca.pem")
    users = {
        "inline": f"    client-certificate-data: {b64(pki.crt('client'))}\n    client-key-data: {b64(pki.key('client'))}\n",
        "files": f"    client-certificate: {pki.crt('client')}\n    client-key: {pki.key('client')}\n",
        "token file": "    tokenFile: token\n",
    }
    for name, user in users.items():
        api = start(config=token_config(kube, pki, user, ca="certificate-authority: ca.pem"), state=str(tmp_path / name.replace(" ", "-")))
        assert banner(api, api.create()["session_id"]).startswith(b"SSH-2.0-"), name
        api.end()
    api = start(config=json.dumps(yaml.safe_load(token_config(kube, pki))), state=str(tmp_path / "json"))
    assert banner(api, api.create()["session_id"]).startswith(b"SSH-2.0-")


def test_in_a_cluster(kube, start, session_lab, tmp_path):
    """The pod's own account; its token is read again; auto chooses it."""
    account = tmp_path / "account"
    account.mkdir()
    shutil.copy(session_lab.pki.crt("ca"), account / "ca.crt")
    (account / "token").write_text("good-token")
    env = {**os.environ, "HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "127.0.0.1",
           "KUBERNETES_SERVICE_PORT": str(kube.port), "PICO_SERVICE_ACCOUNT_DIR": str(account)}
    env.pop("KUBECONFIG", None)
    api = start(config="", backend="auto", env=env)
    assert "backend=kubernetes" in api.text()
    api.create()
    (account / "token").write_text("rotated")
    kube.tokens = {"good-token", "rotated"}
    time.sleep(10.5)  # tokens are read again after 10 s; kubelet rotates long before the end
    kube.tokens = {"rotated"}
    assert banner(api, api.create()["session_id"]).startswith(b"SSH-2.0-")


@both([(), ("v1beta1",)])
def test_restart_adopts_and_removes(kube, start):
    a = start()
    kept, paused, lost = a.create(), a.create(), a.create()
    if kube.agents:
        a.request("POST", f"/v1/sessions/{paused['session_id']}/pause")
    a.kill()
    os.unlink(next(os.path.join(top, f) for top, _, fs in os.walk(a.state) for f in fs if lost["session_id"] in f))
    a.start()
    wait_for(lambda: status(a, kept["session_id"]) == "running", 20, "adopted")
    wait_for(lambda: status(a, paused["session_id"]) == ("paused" if kube.agents else "running"), 20, "adopted")
    wait_for(lambda: lost["sandbox_name"] not in kube.objects["pods"], 20, "what nobody knows is removed")
    assert a.ssh(kept["session_id"], "echo still here").stdout == b"still here\n"
    assert banner(a, paused["session_id"]).startswith(b"SSH-2.0-")


def test_expires(kube, start):
    api = start()
    s = api.create(ttl=4)
    wait_for(lambda: not kube.objects["pods"], 20, "the pod is gone")
    assert api.request("GET", f"/v1/sessions/{s['session_id']}").status == 410


@pytest.mark.parametrize("text,says", [
    ("clusters: {a: b}", "line 1"),
    ("current-context: x\ncontexts: []\n", 'no entry "x" in contexts'),
    ("a: b\n", "current-context is not set"),
])
def test_wrong_kubeconfig(tmp_path, text, says, session_lab):
    (tmp_path / "k").write_text(text)
    r = run(os.environ.get("TSTUNNEL_BIN", ROOT + "/bin") + "/pico-apiserver", "--backend", "kubernetes", "--port", "0",
            "--state-dir", tmp_path / "s", "--kubeconfig", tmp_path / "k", check=False)
    assert r.returncode == 1 and says in r.stderr and str(tmp_path / "k") in r.stderr, r.stderr


def test_deploy_manifest(tmp_path):
    """Every document parses and hangs together; kubectl, where there is one, takes it."""
    path = os.path.join(ROOT, "deploy/pico-apiserver.yaml")
    docs = [d for d in yaml.safe_load_all(open(path)) if d]
    kinds = {d["kind"]: d for d in docs}
    assert set(kinds) >= {"Namespace", "ServiceAccount", "Role", "RoleBinding", "Deployment", "Service"}
    space = kinds["Namespace"]["metadata"]["name"]
    assert all(d["metadata"].get("namespace") == space for d in docs if d["kind"] != "Namespace")
    pod = kinds["Deployment"]["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
    assert kinds["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    container = pod["spec"]["containers"][0]
    assert container["readinessProbe"] and container["livenessProbe"] and container["resources"]["limits"]
    # the program knows every flag that is given to it there
    known = run(os.environ.get("TSTUNNEL_BIN", ROOT + "/bin") + "/pico-apiserver", "--help").stdout
    for flag in container["args"]:
        assert re.search(re.escape(flag.split("=")[0]) + r"\b", known), flag
    # what the tests saw asked for is granted
    granted = {(r, v) for rule in kinds["Role"]["rules"] for r in rule["resources"] for v in rule["verbs"]}
    for need in ("create", "get", "list", "watch", "delete"):
        assert ("pods", need) in granted and ("sandboxes", need) in granted
    assert ("sandboxes", "patch") in granted


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl")
def test_kubectl(kube, start, session_lab, tmp_path):
    """kubectl takes the manifest, and we take the configuration that kubectl writes."""
    pki, config = session_lab.pki, tmp_path / "config"
    config.write_text(token_config(kube, pki, ca=f"certificate-authority: {pki.crt('ca')}",
                                   user=f"    client-certificate: {pki.crt('client')}\n    client-key: {pki.key('client')}\n"))
    env = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(config)}

    def kubectl(*argv):
        return run("kubectl", *argv, env=env).stdout
    made = kubectl("apply", "--dry-run=client", "--validate=false", "-o", "name", "-f",
                   os.path.join(ROOT, "deploy/pico-apiserver.yaml")).split()
    assert len(made) == 6 and "deployment.apps/pico-apiserver" in made
    # Debian's 1.20 cannot "config set-credentials"; this writes in the same way
    written = kubectl("config", "view", "--raw", "--flatten")
    assert "client-key-data" in written
    api = start(config=written)
    assert banner(api, api.create()["session_id"]).startswith(b"SSH-2.0-")
