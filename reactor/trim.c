#include "reactor/trim.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "reactor/buf.h"
#include "reactor/pipe.h"

/* Unmaps what nobody writes to: clean pages of a file, which others share, and which a page fault
 * brings back. Not of the program itself (name ""): a debugger's breakpoints would be lost. */
static int library_trim(struct dl_phdr_info *lib, size_t size, void *arg)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	(void)size;
	(void)arg;
	if (lib->dlpi_name[0] == '\0')
		return 0;
	for (unsigned i = 0; i < lib->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &lib->dlpi_phdr[i];
		if (p->p_type != PT_LOAD || (p->p_flags & PF_W))
			continue;
		uintptr_t from = (lib->dlpi_addr + p->p_vaddr) & ~(page - 1);
		uintptr_t to = lib->dlpi_addr + p->p_vaddr + p->p_memsz;
		madvise((void *)from, to - from,
			MADV_DONTNEED); // NOLINT(performance-no-int-to-ptr)
	}
	return 0;
}

void memory_trim(void)
{
	block_trim();
	pipe_trim();
	malloc_trim(0);
	dl_iterate_phdr(library_trim, NULL);
}
