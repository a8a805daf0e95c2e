# The targets that the guides name; ./build.sh does the work.
.PHONY: build-all run
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
