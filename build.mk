# The rules. Called by build.sh, which sets CC, SAN, BORINGSSL and the folders OUT and BIN.
MAKEFLAGS += -rR --no-print-directory
.DELETE_ON_ERROR:
.SECONDARY:

CC        ?= gcc
OUT       ?= build/gcc
BIN       ?= bin
multiarch := $(shell $(CC) -print-multiarch)
ifeq ($(multiarch),)
multiarch := $(shell $(CC) -dumpmachine)
endif

# BoringSSL: Debian's (shared, found by rpath), or one's own prefix.
ifeq ($(BORINGSSL),)
ssl_dir   := /usr/lib/$(multiarch)/android
ssl_flags := -I/usr/include/android
ssl_libs  := -L$(ssl_dir) -Wl,-rpath,$(ssl_dir) -lssl -lcrypto
else
ssl_flags := -I$(BORINGSSL)/include
ifneq ($(wildcard $(BORINGSSL)/lib/libssl.a),)
ssl_libs  := $(BORINGSSL)/lib/libssl.a $(BORINGSSL)/lib/libcrypto.a -lstdc++ -lpthread
else
ssl_libs  := -L$(BORINGSSL)/lib -Wl,-rpath,$(BORINGSSL)/lib -lssl -lcrypto
endif
endif

comma  := ,
CFLAGS := -std=c11 -D_GNU_SOURCE -I. -Wall -Wextra -Wshadow -Wconversion -Wvla -Werror -g \
          -fstack-protector-strong -fPIE $(ssl_flags)
ifeq ($(SAN),)
CFLAGS += -O2 -D_FORTIFY_SOURCE=2
else
CFLAGS += -O1 -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=undefined
endif
LDFLAGS := $(if $(STATIC),-static-pie -Wl$(comma)--gc-sections,-pie) -Wl,-z,relro,-z,now $(if $(SAN),-fsanitize=$(SAN))

objects = $(patsubst %.c,$(OUT)/%.o,$(sort $(1)))

# The rooms are one library; each folder of cmd/ with a main.c is a program.
room_src     := $(foreach room,reactor json http proto,$(wildcard $(room)/*.c $(room)/*/*.c))
room_obj     := $(call objects,$(room_src))
room_lib     := $(OUT)/rooms.a
programs     := $(patsubst cmd/%/main.c,%,$(wildcard cmd/*/main.c))
unit_tests   := $(patsubst %.c,%,$(notdir $(wildcard test/unit/test_*.c)))
unit_shared  := $(call objects,$(filter-out test/unit/test_%.c,$(wildcard test/unit/*.c)))
bench_tools  := load relay pump
fuzz_targets := $(patsubst %.c,%,$(notdir $(wildcard fuzz/*.c)))

.PHONY: all unit fuzz bench print-cflags FORCE
all: $(programs:%=$(BIN)/%) $(room_lib)
unit: $(unit_tests:%=$(OUT)/unit/%)
fuzz: $(fuzz_targets:%=$(BIN)/%)
bench: $(bench_tools:%=$(OUT)/bench/%)
	@:

print-cflags:
	@echo $(filter-out -Werror,$(CFLAGS))

$(room_lib): $(room_obj) $(OUT)/rooms.list
	@rm -f $@
	@ar rcs $@ $(room_obj)

define program
$(BIN)/$(1): $(call objects,$(wildcard cmd/$(1)/*.c)) $(room_lib) $(OUT)/flags
	@mkdir -p $$(@D)
	@echo "  link $$@"
	@$(CC) $(LDFLAGS) -o $$@ $$(filter %.o %.a,$$^) $(ssl_libs)
endef
$(foreach p,$(programs),$(eval $(call program,$(p))))

$(OUT)/unit/%: $(OUT)/test/unit/%.o $(unit_shared) $(room_lib) $(OUT)/flags
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) -lcmocka $(ssl_libs)

define bench_tool
$(OUT)/bench/$(1): $(call objects,$(wildcard bench/$(1)*.c)) $(room_lib) $(OUT)/flags
	@mkdir -p $$(@D)
	@$(CC) $(LDFLAGS) -o $$@ $$(filter %.o %.a,$$^) $(ssl_libs)
endef
$(foreach t,$(bench_tools),$(eval $(call bench_tool,$(t))))

$(fuzz_targets:%=$(BIN)/%): $(BIN)/%: $(OUT)/fuzz/%.o $(room_lib) $(OUT)/flags
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o %.a,$^) $(ssl_libs)

$(OUT)/%.o: %.c $(OUT)/flags
	@mkdir -p $(@D)
	@echo "  cc $<"
	@$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

# Written only when their content changes: other flags, or a file that came or went, rebuild.
keep = mkdir -p $(@D); echo '$(1)' | cmp -s - $@ || echo '$(1)' > $@
$(OUT)/flags: FORCE
	@$(call keep,$(CC) $(CFLAGS) $(LDFLAGS) $(ssl_libs))
$(OUT)/rooms.list: FORCE
	@$(call keep,$(room_obj))

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
