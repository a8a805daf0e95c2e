/*
 * YAML as kubeconfig files have it. Properties: what is taken for YAML becomes JSON that our reader
 * takes, or refuses for a name that stands twice, its depth or its bytes only; JSON passes as it
 * is; a refusal has a sentence; a configuration that is read says where its cluster is.
 */
#include "proto/k8s/kubeconfig.h"
#include "proto/k8s/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice text = slice_of(data, size);
	struct json_error wrong = { JSON_OK, 0 };
	struct kube_config c;
	struct buf out;
	char err[600];

	buf_init(&out, 4 << 20);
	int r = yaml_to_json(text, &out, err, sizeof(err));
	BUG_ON(r < 0 && !err[0]);
	if (r == 0 && !memchr(data, '{', size)) {
		struct json_doc *doc = json_parse(buf_data(&out), NULL, &wrong);
		BUG_ON(!doc && wrong.code != JSON_E_DUPLICATE && wrong.code != JSON_E_BYTES &&
		       wrong.code != JSON_E_VALUES);
		/* JSON is YAML: once more changes nothing. */
		if (doc && json_root(doc)->type == JSON_OBJECT) {
			struct buf again;
			buf_init(&again, 4 << 20);
			BUG_ON(yaml_to_json(buf_data(&out), &again, err, sizeof(err)) < 0);
			BUG_ON(!slice_eq(buf_data(&again), buf_data(&out)));
			buf_end(&again);
		}
		json_free(doc);
	}
	err[0] = '\0';
	if (kube_config_parse(&c, text, "/dir", NULL, err, sizeof(err)) == 0)
		BUG_ON(!c.server);
	else
		BUG_ON(!err[0]);
	kube_config_end(&c);
	buf_end(&out);
	return 0;
}
