/* Allocations of the library's that fail, by number: for a program with glibc, or for a library that LD_PRELOAD names.
 * To be included once, after `#define _GNU_SOURCE`. An allocation is the library's when its code asks for it. */
#ifndef FAILING_H
#define FAILING_H

#include <errno.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *place, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

typedef enum { OFF, COUNT, ONE, ALL_FROM } mode_kind;
static mode_kind mode = OFF;
static long failing;            /* the number of the allocation that fails, from 1 on */
static long asked, failed;      /* allocations of the library's, and those of them that failed */
static uintptr_t code[2];       /* where the library is */
static __thread int in_call = 0; /* what the C library asks for on this thread counts as well */

/* Whether an allocation that returns to `to` must fail. */
static int fails(const void *to) {
    uintptr_t address = (uintptr_t)to;
    mode_kind now = __atomic_load_n(&mode, __ATOMIC_SEQ_CST);
    long number;
    if (now == OFF || !(in_call || (code[0] <= address && address < code[1]))) return 0;
    number = __atomic_add_fetch(&asked, 1, __ATOMIC_SEQ_CST);
    if (now == COUNT || (now == ONE ? number != failing : number < failing)) return 0;
    __atomic_add_fetch(&failed, 1, __ATOMIC_SEQ_CST);
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}
void *realloc(void *place, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(place, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void **place, size_t alignment, size_t size) {
    void *got = fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
    if (got != NULL) *place = got;
    return got == NULL ? ENOMEM : 0;
}

static int find_library(struct dl_phdr_info *info, size_t size, void *unused) {
    int i;
    (void)size, (void)unused;
    if (strstr(info->dlpi_name, "libfocal_loss.so") == NULL) return 0;
    for (i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X)) {
            code[0] = info->dlpi_addr + segment->p_vaddr;
            code[1] = code[0] + segment->p_memsz;
        }
    }
    return 1;
}

/* Where the library is; 0 if it is not loaded. */
static int find(void) { return dl_iterate_phdr(find_library, NULL) == 1 && code[0] != 0; }

#endif
