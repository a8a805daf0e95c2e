/* Response heads: the properties of http_request.c. */
#include "fuzz/http_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_head(http_response_parse, slice_of(data, size));
	return 0;
}
