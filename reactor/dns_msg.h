/*
 * DNS messages: questions out, answers in. Pure: touches no descriptor. RFC 1035 section 4,
 * RFC 3596 (AAAA). Knows A, AAAA and CNAME; all other records are stepped over.
 */
#ifndef REACTOR_DNS_MSG_H
#define REACTOR_DNS_MSG_H

#include "reactor/base.h"

enum { DNS_TYPE_A = 1, DNS_TYPE_CNAME = 5, DNS_TYPE_AAAA = 28 };
enum { DNS_RCODE_OK = 0, DNS_RCODE_SERVFAIL = 2, DNS_RCODE_NXDOMAIN = 3 };

#define DNS_NAME_TEXT 253            /* longest name as text, without the last dot */
#define DNS_QUESTION  (12 + 255 + 4) /* longest message that dns_msg_ask writes */
#define DNS_ANSWERS   16             /* addresses taken from one answer, the rest is ignored */

/* Labels of 1 to 63 letters, digits, '-' and '_', joined by dots, 253 bytes at most; one dot may
 * stand at the end. */
bool dns_name_ok(struct slice name);

/* Writes a recursive query into out (DNS_QUESTION bytes) and returns its length. name is
 * dns_name_ok, type is DNS_TYPE_A or DNS_TYPE_AAAA. */
size_t dns_msg_ask(uint8_t *out, uint16_t id, struct slice name, uint16_t type);

struct dns_answer {
	int rcode;
	bool truncated; /* ask again over TCP; nothing else was read */
	uint32_t ttl;   /* seconds, least of all records used; 0 when count is 0 */
	size_t count;
	uint8_t addr[DNS_ANSWERS][16]; /* 4 bytes used of each for A */
};

/* Reads the reply to the question (id, name, type), following CNAMEs inside it. 0;
 * -ENOMSG: not a reply to this question, keep waiting (it may be forged or late);
 * -EBADMSG: a reply to it, but malformed. */
int dns_msg_answer(struct dns_answer *, struct slice msg, uint16_t id, struct slice name,
		   uint16_t type);

#endif
