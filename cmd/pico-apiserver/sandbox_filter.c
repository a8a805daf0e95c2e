/* The system calls that nothing in a sandbox gets: seccomp(2), with classic BPF. What is cut off is
 * what lets a user without rights reach much of the kernel: user namespaces, in which he would be
 * root, keyrings, which know no namespaces, and calls that few programs need and many exploits. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "cmd/pico-apiserver/sandbox_init.h"

#if defined(__x86_64__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define FILTER_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef FILTER_ARCH

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(e)   BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (e))
/* If the call is that one, the next statement, else the one behind it. */
#define CALL(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1)
/* Never. */
#define REFUSE(name) CALL(name), ANSWER(EPERM)
/* Not with these flags in the first argument. */
#define REFUSE_FLAGS(name, flags)                                                                  \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 4), LOAD(args[0]),                      \
	    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (flags), 0, 1), ANSWER(EPERM),                    \
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

int sandbox_filter_set(void)
{
	static const struct sock_filter program[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FILTER_ARCH, 1, 0),
		ANSWER(ENOSYS), /* 32-bit programs: other numbers */
		LOAD(nr),
#ifdef __x86_64__
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), /* x32 */
		ANSWER(ENOSYS),
#endif
		REFUSE_FLAGS(clone, CLONE_NEWUSER),
		REFUSE_FLAGS(unshare, CLONE_NEWUSER),
		CALL(clone3), /* its flags are in memory; libc goes on with clone */
		ANSWER(ENOSYS),
		REFUSE(add_key),
		REFUSE(request_key),
		REFUSE(keyctl),
		REFUSE(bpf),
		REFUSE(perf_event_open),
		REFUSE(userfaultfd),
		REFUSE(io_uring_setup),
		REFUSE(setns),
		REFUSE(mount),
		REFUSE(umount2),
		REFUSE(pivot_root),
		REFUSE(open_tree),
		REFUSE(move_mount),
		REFUSE(fsopen),
		REFUSE(fspick),
		REFUSE(mount_setattr),
		REFUSE(open_by_handle_at),
		REFUSE(kexec_load),
		REFUSE(init_module),
		REFUSE(finit_module),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog all = { ARRAY_LEN(program), (void *)(uintptr_t)program };
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all, 0, 0) == -1 && errno != EINVAL ? -1
											       : 0;
}

#else

int sandbox_filter_set(void)
{
	return 0;
}

#endif
