/*
 * Request heads and the bodies behind them. Properties: the verdict and the parsed head do not
 * depend on how the input is split; writing a parsed head and parsing that gives the same head.
 */
#include "fuzz/http_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_head(http_request_parse, slice_of(data, size));
	return 0;
}
