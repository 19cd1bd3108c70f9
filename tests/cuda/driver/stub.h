/* A CUDA driver for machines without one: what a test asks of it, besides the functions of libcuda. */
#ifndef STUB_H
#define STUB_H

#include <stddef.h>
#include <stdint.h>

/* What runs in the place of a kernel; nothing does until one is set. */
typedef void stub_executor(const char *kernel, const unsigned grid[3], const unsigned block[3], unsigned shared,
                           void **arguments);

/* Settings, also from the environment variable STUB_CUDA ("version=11040 cuInit=100"), which is read once. A name that
 * begins with "cu" is a function and the value the code that it fails with, 0 for not at all; other names:
 *   version   what cuDriverGetVersion says              12080
 *   devices   how many there are                        2
 *   pools     whether devices have memory pools         1
 *   reject_ptx  whether modules do not compile         0
 *   skip      how many calls of failing functions succeed first, counted down; 0 */
void stub_set(const char *name, int64_t value);

/* Forgets failures and the journal. What the application under test holds (contexts, modules, memory) stays. */
void stub_reset(void);

/* The calls since the last reset, a line each, those that fail marked by their code: "cuLaunchKernel ..." */
const char *stub_journal(void);

/* A new context of a device; a device's primary context; making one current in this thread, in place of all that were
 * (NULL: none); this thread's current one; how many are stacked. */
void *stub_context(int device);
void *stub_primary(int device);
void stub_set_current(void *context);
void *stub_current(void);
int stub_depth(void);
/* A later context in the place of one that was destroyed: the same address, another identity. */
void stub_replace(void *context);

/* A new stream of a context. */
void *stub_stream(void *context);
/* Begins (1) or ends (0) to capture it in global mode; the end returns whether the capture is sound. */
int stub_capture(void *stream, int on);

/* Says that so many bytes are memory of a device, managed or not; from cudaMalloc in real life. */
void stub_memory(const void *data, size_t size, int device, int managed);

/* Bytes that were allocated in stream order and not freed, and how often any were. */
size_t stub_outstanding(void);
size_t stub_allocations(void);
/* Threads that are in relaxed capture mode; modules that are loaded. */
int stub_relaxed(void);
int stub_modules(void);

void stub_execute_with(stub_executor *executor);

#endif
