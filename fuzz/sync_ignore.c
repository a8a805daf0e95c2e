/*
 * Ignore patterns and a path, with a NUL between. Properties: the last pattern that matches by
 * itself decides; a line that names the path ignores it, and its negation brings it back; a pattern
 * that is only for directories matches no more than without the '/'.
 */
#include "proto/sync/ignore.h"
#include "reactor/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool ask(struct slice text, struct slice path, bool is_dir)
{
	char why[200];
	struct ignore *ig = ignore_new(text, why, sizeof(why));
	BUG_ON(!ig);
	bool yes = ignore_match(ig, path, is_dir);
	ignore_free(ig);
	return yes;
}

static bool line_by_line(struct slice text, struct slice path, bool is_dir)
{
	bool yes = false;
	struct slice line;

	if (slice_starts(text, SLICE("\xef\xbb\xbf")))
		text = slice_after(text, 3);
	while (text.n > 0) {
		slice_cut(text, '\n', &line, &text);
		bool negative = line.n > 0 && line.p[0] == '!';
		/* a second '!' means itself, as does '#' or a byte order mark behind the first */
		struct slice alone = negative ? slice_after(line, 1) : line;
		struct buf b;
		buf_init(&b, alone.n + 8);
		BUG_ON(buf_put(&b, SLICE("#\n")) < 0);
		if (negative && alone.n > 0 && (alone.p[0] == '!' || alone.p[0] == '#'))
			BUG_ON(buf_put(&b, SLICE("\\")) < 0);
		BUG_ON(buf_put(&b, alone) < 0);
		bool one = ask(buf_data(&b), path, is_dir);
		if (one)
			yes = !negative;
		if (one && !is_dir)
			BUG_ON(!ask(buf_data(&b), path, true));
		buf_end(&b);
	}
	return yes;
}

static void named(struct slice text, struct slice path, bool is_dir)
{
	struct buf b;

	buf_init(&b, 2 * text.n + 8 * path.n + 64);
	for (int negative = 0; negative < 2; negative++) {
		buf_drop(&b, b.len);
		BUG_ON(buf_put(&b, text) < 0 || buf_puts(&b, negative ? "\n!/" : "\n/") < 0);
		for (size_t i = 0; i < path.n; i++) {
			if (path.p[i] != '/')
				BUG_ON(buf_put(&b, SLICE("\\")) < 0);
			BUG_ON(buf_put(&b, slice_of(path.p + i, 1)) < 0);
		}
		BUG_ON(buf_puts(&b, is_dir ? "/\n" : "\n") < 0);
		BUG_ON(ask(buf_data(&b), path, is_dir) != !negative);
	}
	buf_end(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice text, path, in = slice_of(data, size);
	bool is_dir = size % 2;

	if (!slice_cut(in, 0, &text, &path))
		return 0;
	if (path.n > 4095)
		path.n = 4095;
	bool yes = ask(text, path, is_dir);
	BUG_ON(yes != line_by_line(text, path, is_dir));
	if (path.n > 0 && path.p[0] != '/' && path.p[path.n - 1] != '/' &&
	    !memchr(path.p, '\n', path.n) && !memchr(path.p, 0, path.n) &&
	    !memchr(path.p, '\r', path.n))
		named(text, path, is_dir);
	return 0;
}
