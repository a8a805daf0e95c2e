# The targets that the guides name; ./build.sh does the work.
.PHONY: build-all run
build-all:
	./build.sh build

# No cluster and no engine is needed: backend process is the last resort of auto.
run: build-all
	./bin/pico-apiserver $(ARGS)
