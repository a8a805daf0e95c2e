/* Headers of tstunnel/1: what is accepted writes back as it was, what is refused says why. */
#include <errno.h>

#include "proto/tstunnel/frame.h"

static void header(const char *p)
{
	struct frame f, again;
	const char *why = NULL;
	char out[FRAME_HEADER];
	int r = frame_get(&f, p, &why);
	BUG_ON(r != 0 && r != -EPROTO);
	BUG_ON((r == 0) != (why == NULL));
	if (r < 0) {
		BUG_ON(why[0] == '\0');
		return;
	}
	BUG_ON(f.type >= FRAME_TYPES || f.channel > 2 || f.length > FRAME_DATA_MAX);
	BUG_ON(f.type != FRAME_DATA && (f.length > FRAME_OTHER_MAX || f.channel));
	frame_put(out, &f);
	BUG_ON(memcmp(out, p, FRAME_HEADER) != 0);
	BUG_ON(frame_get(&again, out, &why) != 0);
	BUG_ON(again.length != f.length || again.stream != f.stream || again.type != f.type ||
	       again.flags != f.flags || again.channel != f.channel);
}

/* A code that comes over the wire and goes on over another one keeps its meaning. */
static void reset(uint32_t wire)
{
	int err = reset_to_err(wire);
	BUG_ON(err >= 0);
	BUG_ON(reset_from_err(err) != (wire <= RESET_CANCELLED ? wire : RESET_INTERNAL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *p = (const char *)data;
	for (size_t at = 0; at + FRAME_HEADER <= size; at += FRAME_HEADER) {
		header(p + at);
		reset(frame_get_u32(p + at));
	}
	return 0;
}
