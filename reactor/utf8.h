/*
 * UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing past U+10FFFF.
 */
#ifndef REACTOR_UTF8_H
#define REACTOR_UTF8_H

#include "reactor/base.h"

/* Length (1 to 4) of the well-formed sequence at the front of s; 0 when s is empty, ill-formed or
 * ends inside the sequence. */
size_t utf8_seq(struct slice s);
bool utf8_valid(struct slice s);

#endif
