"""A Kubernetes API server as far as a sandbox service needs one, by the API's documentation (API
concepts: lists, watches, bookmarks, 410 Gone, conflicts, preconditions), with kubelet and the
agent-sandbox controller in one. Its pods are real: the sandbox image's entrypoint in namespaces of
its own, its sshd on a loopback address (127.0.1.N)."""
import copy
import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import sandbox_image

START = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/up,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
hostname "$3"
exec chroot "$1/root" /bin/sh -c 'cd /workspace; exec /usr/local/bin/entrypoint.sh /usr/sbin/sshd -D -e -o "ListenAddress=$1"' sh "$4"
"""
AGENTS = "agents.x-k8s.io"
# Discovery, as far as kubectl asks before it looks at a manifest.
KINDS = {"/api/v1": [("namespaces", "Namespace", False), ("serviceaccounts", "ServiceAccount", True),
                     ("services", "Service", True), ("pods", "Pod", True)],
         "/apis/apps/v1": [("deployments", "Deployment", True)],
         "/apis/rbac.authorization.k8s.io/v1": [("roles", "Role", True), ("rolebindings", "RoleBinding", True)]}


def discovery(path):
    groups = [p.split("/")[2] for p in KINDS if p.startswith("/apis/")]
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = [{"groupVersion": g + "/v1", "version": "v1"} for g in groups]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
            {"name": g, "versions": [v], "preferredVersion": v} for g, v in zip(groups, versions)]}
    if path in KINDS:
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": path.split("/", 2)[2], "resources": [
            {"name": n, "singularName": "", "kind": k, "namespaced": ns, "verbs": ["create", "get"]} for n, k, ns in KINDS[path]]}
    return None


class Refused(Exception):
    def __init__(self, code, reason, message):
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                       "message": message, "reason": reason, "code": code}


def merge(into, patch):
    for k, v in patch.items():
        if v is None:
            into.pop(k, None)
        elif isinstance(v, dict) and isinstance(into.get(k), dict):
            merge(into[k], v)
        else:
            into[k] = v


class Kube:
    def __init__(self, pki, agents=(), tokens=("good-token",)):
        self.dir = tempfile.mkdtemp(prefix="kube-")
        self.root = os.path.join(self.dir, "image")
        with tarfile.open(sandbox_image.tarball()) as tar:
            tar.extractall(self.root)
        self.agents = list(agents)  # served versions
        self.tokens = set(tokens)
        self.lock = threading.Condition()
        self.version = 1000
        self.objects = {"pods": {}, "sandboxes": {}}
        self.history = []  # (version, plural, type, object)
        self.compacted = 0
        self.forbidden = set()  # (verb, plural)
        self.pending = 0  # seconds before a pod runs
        self.terminating = 0
        self.conflicts = 0  # so many patches are refused
        self.requests = []  # (method, path with query)
        self.created = []  # bodies of POSTs
        self.cut = 0  # counted up: all watches end
        self.waiting = {}  # reason, message of containers that do not start
        self.processes = {}
        self.threads = []
        self.addresses = 1
        self.closing = False
        pki.issue("kube", "kube-apiserver", "IP:127.0.0.1,DNS:kubernetes")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.crt("kube"), pki.key("kube"))
        context.load_verify_locations(pki.crt("ca"))
        context.verify_mode = ssl.CERT_OPTIONAL
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        with self.lock:
            self.closing = True
            self.lock.notify_all()
        self.server.shutdown()
        self.server.server_close()
        for name in list(self.processes):
            self.kill_pod(name)
        shutil.rmtree(self.dir, ignore_errors=True)

    # -- the store ------------------------------------------------------------------------------------

    def record(self, plural, type, obj):
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, plural, type, copy.deepcopy(obj)))
        self.lock.notify_all()

    def change(self, plural, name, uid, update):
        """update(object) under the lock, if it still is that one: then it is MODIFIED."""
        with self.lock:
            obj = self.objects[plural].get(name)
            if not obj or obj["metadata"]["uid"] != uid:
                return False
            update(obj)
            self.record(plural, "MODIFIED", obj)
            return True

    def compact(self):
        """Forgets all versions so far and ends the watches, as an API server may at any time."""
        with self.lock:
            self.version += 10  # things went on elsewhere
            self.compacted = self.version
            self.cut += 1
            self.lock.notify_all()

    def drop_watches(self):
        with self.lock:
            self.cut += 1
            self.lock.notify_all()

    def create(self, plural, obj, owner=None):
        with self.lock:
            name = obj["metadata"]["name"]
            if name in self.objects[plural]:
                raise Refused(409, "AlreadyExists", f'{plural} "{name}" already exists')
            obj = copy.deepcopy(obj)
            obj["metadata"]["uid"] = f"uid-{self.version}-{name}"
            obj["metadata"]["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            if owner:
                obj["metadata"]["ownerReferences"] = [{"kind": "Sandbox", "name": owner, "controller": True}]
            if plural == "pods":
                obj["status"] = {"phase": "Pending"}
            self.objects[plural][name] = obj
            self.record(plural, "ADDED", obj)
        self.spawn(self.run_pod if plural == "pods" else self.run_sandbox, name, obj["metadata"]["uid"])
        return obj

    def delete(self, plural, name):
        with self.lock:
            obj = self.objects[plural].get(name)
            if not obj:
                raise Refused(404, "NotFound", f'{plural} "{name}" not found')
            if "deletionTimestamp" not in obj["metadata"]:
                obj["metadata"]["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                self.record(plural, "MODIFIED", obj)
                self.spawn(self.finish, plural, name, obj["metadata"]["uid"])
            return obj

    def finish(self, plural, name, uid):
        if plural == "pods":
            self.kill_pod(name)
            time.sleep(self.terminating)
        else:
            self.drop_pod_of(name)
        with self.lock:
            obj = self.objects[plural].get(name)
            if obj and obj["metadata"]["uid"] == uid:
                del self.objects[plural][name]
                self.record(plural, "DELETED", obj)

    def spawn(self, target, *args):
        threading.Thread(target=target, args=args, daemon=True).start()

    # -- kubelet ----------------------------------------------------------------------------------------

    def run_pod(self, name, uid):
        time.sleep(self.pending)
        with self.lock:
            pod = self.objects["pods"].get(name)
            if not pod or pod["metadata"]["uid"] != uid or self.closing or "deletionTimestamp" in pod["metadata"]:
                return
            self.addresses += 1
            ip = f"127.0.1.{self.addresses}"
            container = pod["spec"]["containers"][0]
        if self.waiting:
            state = {"name": "sandbox", "ready": False, "state": {"waiting": self.waiting}}
            self.change("pods", name, uid, lambda o: o["status"].update(containerStatuses=[state]))
            return
        place = os.path.join(self.dir, f"pod-{ip}")
        os.mkdir(place)
        env = {e["name"]: e["value"] for e in container["env"]}
        with open(os.path.join(self.dir, f"log-{ip}"), "wb") as log:
            self.processes[name] = subprocess.Popen(
                ["unshare", "-m", "-p", "-u", "-f", "--kill-child=KILL", "sh", "-c", START, "pod", place, self.root, name, ip],
                env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **env},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                  "conditions": [{"type": "Ready", "status": "True"}],
                  "containerStatuses": [{"name": "sandbox", "ready": True, "state": {"running": {}}}]}
        if not self.change("pods", name, uid, lambda o: o.update(status=status)):
            self.kill_pod(name)

    def kill_pod(self, name):
        p = self.processes.pop(name, None)
        if p:
            p.kill()
            p.wait()

    def fail_pod(self, name, reason="Evicted", message="The node was low on resource: memory."):
        self.kill_pod(name)
        uid = self.objects["pods"][name]["metadata"]["uid"]
        self.change("pods", name, uid, lambda o: o["status"].update(phase="Failed", reason=reason, message=message))

    # -- agent-sandbox controller -------------------------------------------------------------------------

    @staticmethod
    def suspended(obj):
        return obj["spec"].get("operatingMode") == "Suspended" or obj["spec"].get("replicas") == 0

    def drop_pod_of(self, name):
        with self.lock:
            there = name in self.objects["pods"]
            if there:
                self.delete("pods", name)
        deadline = time.monotonic() + 20
        while there and time.monotonic() < deadline:
            with self.lock:
                there = name in self.objects["pods"]
                if there:
                    self.lock.wait(0.1)

    def run_sandbox(self, name, uid):
        while True:
            with self.lock:
                obj = self.objects["sandboxes"].get(name)
                if not obj or obj["metadata"]["uid"] != uid or "deletionTimestamp" in obj["metadata"] or self.closing:
                    return
                obj = copy.deepcopy(obj)
                pod = self.objects["pods"].get(name)
            if self.suspended(obj) and pod:
                self.drop_pod_of(name)
            elif not self.suspended(obj) and not pod:
                template = obj["spec"]["podTemplate"]
                spec = copy.deepcopy(template["spec"])
                self.create("pods", {"metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": spec}, owner=name)
            with self.lock:
                self.lock.wait(0.1)

    # -- HTTP ---------------------------------------------------------------------------------------------

    def served(self, path):
        m = re.fullmatch(r"/api/v1/namespaces/([a-z0-9-]+)/(pods)(?:/([a-z0-9-]+))?", path)
        if not m:
            m = re.fullmatch(rf"/apis/{AGENTS}/(?:{'|'.join(self.agents) or 'none'})/namespaces/([a-z0-9-]+)/(sandboxes)(?:/([a-z0-9-]+))?", path)
        if not m:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return m.groups()

    def selected(self, obj, selector):
        labels = obj["metadata"].get("labels", {})
        return all(labels.get(k) == v for k, v in (p.split("=", 1) for p in selector.split(",") if p))

    def check(self, plural, obj, path):
        kind, version = ("Pod", "v1") if plural == "pods" else ("Sandbox", f"{AGENTS}/{path.split('/')[3]}")
        meta, spec = obj["metadata"], obj["spec"]
        good = obj["kind"] == kind and obj["apiVersion"] == version
        good &= bool(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", meta["name"])) and len(meta["name"]) <= 63
        good &= all(re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", v) and len(v) <= 63 for v in meta["labels"].values())
        pod = spec if plural == "pods" else spec["podTemplate"]["spec"]
        good &= all(isinstance(e["value"], str) for e in pod["containers"][0]["env"])
        if plural == "sandboxes":
            good &= bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", spec["shutdownTime"]))
            good &= ("operatingMode" if version.endswith("v1beta1") else "replicas") in spec
        if not good:
            raise Refused(422, "Invalid", f"{kind} is invalid")

    def handler(kube):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def reply(self, code, obj):
                data = json.dumps(obj).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def user(self):
                auth = self.headers.get("Authorization", "")
                cert = self.connection.getpeercert()
                if not (auth.startswith("Bearer ") and auth[7:] in kube.tokens) and not cert:
                    raise Refused(401, "Unauthorized", "Unauthorized")

            def handle_one(self):
                url = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(url.query))
                n = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(n)) if n else None
                kube.requests.append((self.command, self.path))
                self.user()
                if discovery(url.path):
                    return self.reply(200, discovery(url.path))
                if url.path == f"/apis/{AGENTS}" and kube.agents:
                    return self.reply(200, {"kind": "APIGroup", "name": AGENTS, "versions": [
                        {"groupVersion": f"{AGENTS}/{v}", "version": v} for v in kube.agents]})
                _, plural, name = kube.served(url.path)
                verb = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "GET": "get" if name else
                        "watch" if query.get("watch") else "list"}[self.command]
                if (verb, plural) in kube.forbidden:
                    raise Refused(403, "Forbidden", f'{plural} is forbidden: User "system:serviceaccount:pico:pico" cannot {verb} resource "{plural}"')
                if verb == "create":
                    kube.check(plural, body, url.path)
                    kube.created.append(body)
                    return self.reply(201, kube.create(plural, body))
                if verb == "watch":
                    return self.watch(plural, query)
                with kube.lock:
                    if verb == "list":
                        return self.reply(200, {"kind": "List", "metadata": {"resourceVersion": str(kube.version)}, "items": [
                            o for o in kube.objects[plural].values() if kube.selected(o, query.get("labelSelector", ""))]})
                    obj = kube.objects[plural].get(name)
                    if not obj:
                        raise Refused(404, "NotFound", f'{plural} "{name}" not found')
                    if verb == "patch":
                        assert self.headers["Content-Type"] == "application/merge-patch+json"
                        if kube.conflicts:
                            kube.conflicts -= 1
                            raise Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest version")
                        merge(obj, body)
                        kube.record(plural, "MODIFIED", obj)
                    elif verb == "delete":
                        want = ((body or {}).get("preconditions") or {}).get("uid")
                        if want and want != obj["metadata"]["uid"]:
                            raise Refused(409, "Conflict", "Precondition failed: UID in precondition does not match")
                        kube.delete(plural, name)
                    return self.reply(200, obj)

            def event(self, type, obj):
                line = json.dumps({"type": type, "object": obj}).encode() + b"\n"
                # in two pieces: a client must not count on lines and reads being one
                for piece in (line[:len(line) // 2], line[len(line) // 2:]):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

            def watch(self, plural, query):
                at = int(query["resourceVersion"])
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                with kube.lock:
                    cut = kube.cut
                marked = time.monotonic()
                ends = marked + int(query.get("timeoutSeconds", 300))
                while True:
                    with kube.lock:
                        if at < kube.compacted:
                            self.event("ERROR", Refused(410, "Expired", "too old resource version").status)
                            break
                        news = [h for h in kube.history if h[0] > at]
                        if not news:
                            if kube.cut != cut or kube.closing or time.monotonic() > ends:
                                break
                            kube.lock.wait(0.2)
                    for version, where, type, obj in news:
                        at = version
                        if where == plural and kube.selected(obj, query.get("labelSelector", "")):
                            self.event(type, obj)
                    if query.get("allowWatchBookmarks") == "true" and time.monotonic() - marked > 0.5:
                        marked = time.monotonic()
                        self.event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(at)}})
                self.wfile.write(b"0\r\n\r\n")

            def answer(self):
                try:
                    self.handle_one()
                except Refused as r:
                    self.reply(r.status["code"], r.status)
                except (OSError, ssl.SSLError):
                    self.close_connection = True

            do_GET = do_POST = do_PATCH = do_DELETE = answer
        return Handler
