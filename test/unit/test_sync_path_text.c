/* Paths in JSON: every byte comes back, and nothing else is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/sync/path_text.h"
#include "reactor/buf.h"

/* As JSON. */
static char *written(const char *path)
{
	struct buf b;
	struct json_writer w;
	buf_init(&b, 65536);
	json_writer_begin(&w, &b);
	path_text_put(&w, path);
	assert_int_equal(0, json_writer_end(&w));
	char *text = xslicedup(buf_data(&b));
	buf_end(&b);
	return text;
}

static void as_people_read_it(void **state)
{
	(void)state;
	static const struct {
		const char *path, *text;
	} cases[] = { { "", "\"\"" },
		      { "a/b c", "\"a/b c\"" },
		      { "\xc3\xa4", "\"\xc3\xa4\"" },
		      { "100%", "\"100%25\"" },
		      { "\xff\xfe", "\"%FF%FE\"" },
		      { "\xc3", "\"%C3\"" },
		      { "\xed\xa0\x80", "\"%ED%A0%80\"" } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *text = written(cases[i].path);
		assert_string_equal(cases[i].text, text);
		free(text);
	}
}

static void every_byte_comes_back(void **state)
{
	(void)state;
	char path[8];
	for (unsigned a = 1; a < 256; a++) {
		for (unsigned b = 1; b < 256; b++) {
			snprintf(path, sizeof(path), "x%c%cy", (int)a, (int)b);
			char *json = written(path);
			struct json_doc *doc = json_parse(slice_str(json), NULL, NULL);
			struct slice text;
			assert_non_null(doc);
			assert_int_equal(0, json_str(doc, json_root(doc), &text));
			char *back = path_text_get(text);
			assert_string_equal(path, back);
			free(back);
			json_free(doc);
			free(json);
		}
	}
}

static void nonsense(void **state)
{
	(void)state;
	static const char *const bad[] = { "%",   "a%",  "a%4",  "%4",  "%zz",
					   "%4g", "%00", "%%41", "x%-1" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_null(path_text_get(slice_str(bad[i])));
	assert_null(path_text_get(slice_of("a\0b", 3)));
	char *lower = path_text_get(SLICE("%41%fF"));
	assert_string_equal("A\xff", lower);
	free(lower);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(as_people_read_it),
						   cmocka_unit_test(every_byte_comes_back),
						   cmocka_unit_test(nonsense) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
