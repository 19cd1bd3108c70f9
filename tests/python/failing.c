/* For LD_PRELOAD: allocations of the library's fail in a process of Python's; test_ort_memory.py calls this. */
#define _GNU_SOURCE
#include "../c/failing.h"

/* From now on allocation `number` fails, and with `all` every later one; 0: none does. 0 if there is no library. */
int failing_start(long number, int all) {
    if (!find()) return 0;
    asked = failed = 0;
    failing = number;
    __atomic_store_n(&mode, number == 0 ? COUNT : all ? ALL_FROM : ONE, __ATOMIC_SEQ_CST);
    return 1;
}

/* No more of that. How many failed. */
long failing_stop(void) {
    (void)in_call;
    __atomic_store_n(&mode, OFF, __ATOMIC_SEQ_CST);
    return failed;
}
