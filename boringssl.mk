# BoringSSL as static libraries, from Debian's source package (./build.sh release).
# SRC: the unpacked package; PREFIX: where include/ and lib/ go.
MAKEFLAGS += -rR --no-print-directory
.DELETE_ON_ERROR:

include $(SRC)/debian/sources.mk
machine := $(shell $(CC) -dumpmachine)
machine := $(firstword $(subst -, ,$(machine)))

flags := -O2 -g0 -fPIC -fvisibility=hidden -fno-strict-aliasing \
         -fno-exceptions -DNDEBUG -ffunction-sections -fdata-sections \
         -DBORINGSSL_IMPLEMENTATION -ffile-prefix-map=$(SRC)=boringssl \
         -I$(SRC)/src/include -I$(SRC)/src/crypto
objects = $(patsubst %,$(OUT)/%.o,$(basename $(1)))
# Without what resolves names by getaddrinfo(3): static programs cannot, and ours do not ask it.
no_dns  := $(filter-out %/bio/connect.c %/bio/socket_helper.c,$(crypto_sources))
crypto  := $(call objects,$(no_dns) $(linux_$(machine)_sources))
ssl     := $(call objects,$(ssl_sources))

.PHONY: all
all: $(PREFIX)/lib/libcrypto.a $(PREFIX)/lib/libssl.a $(PREFIX)/include

$(PREFIX)/lib/libcrypto.a: $(crypto)
$(PREFIX)/lib/libssl.a: $(ssl)
$(PREFIX)/lib/%.a:
	@mkdir -p $(@D)
	@echo "  ar $@"
	@rm -f $@
	@ar rcsD $@ $^

$(PREFIX)/include:
	@mkdir -p $(PREFIX)
	@cp -r $(SRC)/src/include $@

$(OUT)/%.o: $(SRC)/%.c
	@mkdir -p $(@D)
	@$(CC) -std=gnu11 $(flags) -c -o $@ $<
$(OUT)/%.o: $(SRC)/%.cc
	@mkdir -p $(@D)
	@$(CXX) -std=gnu++17 $(flags) -fno-rtti -c -o $@ $<
$(OUT)/%.o: $(SRC)/%.S
	@mkdir -p $(@D)
	@$(CC) $(flags) -Wa,--noexecstack -c -o $@ $<
