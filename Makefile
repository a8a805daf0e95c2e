# The targets that the guides name; ./build.sh does the work.
.PHONY: build-all run build-test-tunnel test-tunnel test-tunnel-build
build-all:
	./build.sh build

# No cluster and no engine is needed: backend process is the last resort of auto.
run: build-all
	./bin/pico-apiserver $(ARGS)

# pico-apiserver and its sandboxes in the cluster that kubectl is set up for. The images must be where
# the cluster finds them: docker build, then push or "kind load docker-image".
.PHONY: k8s-deploy
k8s-deploy:
	kubectl apply -f deploy/pico-apiserver.yaml

build-test-tunnel:
	./build.sh build

# make test-tunnel SESSION_ID=... [ARGS='-api URL -cmd COMMAND']
test-tunnel:
	@[ -n "$(SESSION_ID)" ] || { echo "Usage: make $@ SESSION_ID=<session-id>" >&2; exit 2; }
	@[ -x bin/test-tunnel ] || ./build.sh build
	./bin/test-tunnel -session "$(SESSION_ID)" $(ARGS)

test-tunnel-build: build-test-tunnel
	@$(MAKE) --no-print-directory test-tunnel SESSION_ID="$(SESSION_ID)"
