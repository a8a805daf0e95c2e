#include "sync_root.h"

struct root *sync_root_try(struct sync_root *f, bool make, bool in_place, int *err)
{
	struct root_options o = {
		.path = f->path, .store = f->store, .make = make, .in_place = in_place
	};
	char why[256] = "";
	struct root *r = root_open(&o, err, why, sizeof(why));
	BUG_ON((r == NULL) != (why[0] != '\0') || (r == NULL) != (*err < 0));
	return r;
}

void sync_root_reopen(struct sync_root *f, bool in_place)
{
	int err;
	root_close(f->r);
	f->r = sync_root_try(f, true, in_place, &err);
	BUG_ON(!f->r);
}

struct sync_root *sync_root_new(const char *name)
{
	struct sync_root *f = xcalloc(1, sizeof(*f));
	f->base = files_new(name);
	f->path = xasprintf("%s/root", f->base);
	f->store = xasprintf("%s/state/0123", f->base);
	shell(f->base, "mkdir outside");
	sync_root_reopen(f, false);
	return f;
}

void sync_root_free(struct sync_root *f)
{
	root_close(f->r);
	files_free(f->base);
	free(f->path);
	free(f->store);
	free(f);
}

struct expect expect_now(struct sync_root *f, const char *path)
{
	struct expect e = { 0 };
	struct version *v;
	BUG_ON(root_look(f->r, path, &v, &e.stamp) != 0);
	e.v = v;
	return e;
}

void expect_free(struct expect *e)
{
	version_unref((struct version *)e->v);
	*e = (struct expect){ 0 };
}

char *output_of(struct sync_root *f, const char *command)
{
	char *line = xasprintf("cd %s && %s", f->base, command), *text = NULL;
	FILE *p = popen(line, "r");
	size_t n = 0, got = 0;
	BUG_ON(!p);
	do {
		text = xrealloc(text, n + 65537);
		got = fread(text + n, 1, 65536, p);
		n += got;
	} while (got > 0);
	text[n] = '\0';
	BUG_ON(pclose(p) == -1);
	free(line);
	return text;
}
