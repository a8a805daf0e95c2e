# The targets that the guides name; ./build.sh does the work.
.PHONY: build-all
build-all:
	./build.sh build
