/* See stub.h. Strict where a driver is: handles, contexts and what may be done while a stream is being captured. */
#include "stub.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    UNSUPPORTED_PTX_VERSION = 222,
    INVALID_PTX = 218,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
};

static const struct {
    int code;
    const char *name, *meaning;
} ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
};

enum { MAX_SETTINGS = 64, MAX_MEMORY = 4096, MAX_STACK = 16, MAX_DEVICES = 8 };
enum { MAGIC_CONTEXT = 0xC0, MAGIC_MODULE, MAGIC_FUNCTION, MAGIC_STREAM, MAGIC_POOL };

typedef struct {
    int magic, device;
    uint64_t id;
} Context;
typedef struct {
    int magic;
    Context *context;
    uint64_t context_id;
    char *ptx;
} Module;
typedef struct {
    int magic;
    Module *module;
    char name[128];
} Function;
typedef struct {
    int magic, capturing, broken;
    Context *context;
} Stream;
typedef struct {
    int magic, device;
    uint64_t kept;
} Pool;
typedef struct {
    uintptr_t data;
    size_t size;
    int device, managed, owned;
} Memory;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char name[48];
    int64_t value;
} settings[MAX_SETTINGS];
static int setting_count;
static char *journal;
static size_t journal_size, journal_room;
static Memory memories[MAX_MEMORY];
static size_t memory_count, allocations, outstanding;
static Context *primaries[MAX_DEVICES];
static uint64_t next_id = 1;
static int initialised, relaxed_threads, capturing_streams, module_count;
static Stream *capturing[8];
static stub_executor *executor;

static __thread Context *stack[MAX_STACK];
static __thread int depth;
static __thread int capture_mode;

static int64_t *setting(const char *name) {
    for (int i = 0; i < setting_count; i++)
        if (!strcmp(settings[i].name, name)) return &settings[i].value;
    if (setting_count == MAX_SETTINGS || strlen(name) >= sizeof settings[0].name) abort();
    strcpy(settings[setting_count].name, name);
    settings[setting_count].value = 0;
    return &settings[setting_count++].value;
}

__attribute__((constructor)) static void configure(void) {
    *setting("version") = 12080;
    *setting("devices") = 2;
    *setting("pools") = 1;
    const char *environment = getenv("STUB_CUDA");
    if (!environment) return;
    char *copy = strdup(environment), *rest = NULL;
    for (char *part = strtok_r(copy, " ", &rest); part; part = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(part, '=');
        if (!equals) abort();
        *equals = 0;
        *setting(part) = atoll(equals + 1);
    }
    free(copy);
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (size >= (int)sizeof line) size = sizeof line - 1;
    if (journal_size + size + 2 > journal_room) journal = realloc(journal, journal_room = 2 * journal_room + 4096);
    memcpy(journal + journal_size, line, size);
    memcpy(journal + journal_size + size, "\n", 2);
    journal_size += size + 1;
}

/* What a function that was told to fail fails with. */
static int told(const char *function) {
    int code = (int)*setting(function);
    if (code && *setting("skip") > 0) {
        --*setting("skip");
        code = SUCCESS;
    }
    return code;
}

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

static int is(const void *handle, int magic) { return handle && *(const int *)handle == magic; }

static int special(const void *stream) { return (uintptr_t)stream <= 2; }

/* Work for a stream is done in its own context, which is current. */
static int usable(Stream *stream) {
    if (!current()) return INVALID_CONTEXT;
    if (special(stream)) return capturing_streams && !stream ? CAPTURE_UNSUPPORTED : SUCCESS;
    return is(stream, MAGIC_STREAM) && stream->context == current() ? SUCCESS : INVALID_HANDLE;
}

/* What may disturb a capture is refused, and breaks it, unless this thread said that it knows. */
static int unsafe_now(void) {
    if (!capturing_streams || capture_mode == 2) return SUCCESS;
    for (int i = 0; i < 8; i++)
        if (capturing[i]) capturing[i]->broken = 1;
    return CAPTURE_UNSUPPORTED;
}

/* A function of libcuda, whose body follows: it can be told to fail, and is entered in the journal. */
#define CUDA(name, parameters, arguments, ...)                                                                        \
    static int name##_body parameters;                                                                                \
    int name parameters;                                                                                              \
    int name parameters {                                                                                             \
        pthread_mutex_lock(&lock);                                                                                    \
        int code = told(#name);                                                                                       \
        if (!code) code = initialised ? name##_body arguments : NOT_INITIALIZED;                                      \
        if (code) note(#name " = %d", code);                                                                          \
        else note(#name __VA_ARGS__);                                                                                 \
        pthread_mutex_unlock(&lock);                                                                                  \
        return code;                                                                                                  \
    }                                                                                                                 \
    static int name##_body parameters

int cuDriverGetVersion(int *version);
int cuDriverGetVersion(int *version) {
    *version = (int)*setting("version");
    return told("cuDriverGetVersion");
}

int cuInit(unsigned flags);
int cuInit(unsigned flags) {
    int code = told("cuInit");
    if (!code && flags) code = INVALID_VALUE;
    if (!code && !*setting("devices")) code = NO_DEVICE;
    initialised = !code;
    return code;
}

static int name_of(int code, const char **text, int meaning) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) {
            *text = meaning ? ERRORS[i].meaning : ERRORS[i].name;
            return SUCCESS;
        }
    *text = NULL;
    return INVALID_VALUE;
}

int cuGetErrorName(int code, const char **text);
int cuGetErrorName(int code, const char **text) { return name_of(code, text, 0); }
int cuGetErrorString(int code, const char **text);
int cuGetErrorString(int code, const char **text) { return name_of(code, text, 1); }

CUDA(cuDeviceGetCount, (int *count), (count), "") {
    int code = SUCCESS;
    *count = (int)*setting("devices");
    return code;
}


CUDA(cuDeviceGet, (int *device, int ordinal), (device, ordinal), " %d", ordinal) {
    int code = SUCCESS;
    *device = ordinal;
    if (ordinal < 0 || ordinal >= *setting("devices")) code = INVALID_DEVICE;
    return code;
}


CUDA(cuDeviceGetAttribute, (int *value, int attribute, int device), (value, attribute, device), " %d %d", attribute, device) {
    int code = SUCCESS;
    if (attribute == 115) *value = (int)*setting("pools");
    else if (attribute == 16) *value = 132;
    else code = INVALID_VALUE;
    return code;
}


static Context *new_context(int device) {
    Context *context = calloc(1, sizeof *context);
    *context = (Context){MAGIC_CONTEXT, device, next_id++};
    return context;
}

CUDA(cuDevicePrimaryCtxRetain, (void **context, int device), (context, device), " %d", device) {
    int code = SUCCESS;
    if (unsafe_now()) code = CAPTURE_UNSUPPORTED;
    else if (!primaries[device]) primaries[device] = new_context(device);
    *context = primaries[device];
    return code;
}


CUDA(cuCtxGetCurrent, (void **context), (context), "") {
    int code = SUCCESS;
    *context = current();
    return code;
}


CUDA(cuCtxGetDevice, (int *device), (device), "") {
    int code = SUCCESS;
    if (current()) *device = current()->device;
    else code = INVALID_CONTEXT;
    return code;
}


#ifndef WITHOUT_CONTEXT_IDS
CUDA(cuCtxGetId, (void *context, uint64_t *id), (context, id), "") {
    int code = SUCCESS;
    if (is(context, MAGIC_CONTEXT)) *id = ((Context *)context)->id;
    else code = INVALID_CONTEXT;
    return code;
}

#endif

CUDA(cuCtxPushCurrent_v2, (void *context), (context), " %d", ((Context *)context)->device) {
    int code = SUCCESS;
    if (!is(context, MAGIC_CONTEXT) || depth == MAX_STACK) code = INVALID_CONTEXT;
    else stack[depth++] = context;
    return code;
}


CUDA(cuCtxPopCurrent_v2, (void **context), (context), "") {
    int code = SUCCESS;
    if (depth) *context = stack[--depth];
    else code = INVALID_CONTEXT;
    return code;
}


#ifndef WITHOUT_STREAM_CONTEXTS
CUDA(cuStreamGetCtx, (void *stream, void **context), (stream, context), "") {
    int code = SUCCESS;
    if (special(stream)) {
        *context = current();
        if (!current()) code = INVALID_CONTEXT;
    } else if (is(stream, MAGIC_STREAM)) *context = ((Stream *)stream)->context;
    else code = INVALID_HANDLE;
    return code;
}

#endif

CUDA(cuPointerGetAttributes, (unsigned count, const int *names, void **values, uint64_t address), (count, names, values, address), "") {
    int code = SUCCESS;
    const Memory *found = NULL;
    for (size_t i = 0; i < memory_count; i++)
        if (address - memories[i].data < memories[i].size) found = &memories[i];
    for (unsigned i = 0; i < count; i++) {
        int *value = values[i];
        if (names[i] == 2) *value = found ? 2 : 0;
        else if (names[i] == 8) *value = found && found->managed;
        else if (names[i] == 9) *value = found ? found->device : -2;
        else code = INVALID_VALUE;
    }
    return code;
}


CUDA(cuThreadExchangeStreamCaptureMode, (int *mode), (mode), "") {
    int code = SUCCESS;
    int before = capture_mode;
    capture_mode = *mode;
    relaxed_threads += (capture_mode == 2) - (before == 2);
    *mode = before;
    return code;
}


CUDA(cuModuleLoadDataEx, (void **module, const void *image, unsigned count, const int *options, void **values), (module, image, count, options, values), "") {
    int code = SUCCESS;
    if (!current()) code = INVALID_CONTEXT;
    else if (unsafe_now()) code = CAPTURE_UNSUPPORTED;
    else if (*setting("reject_ptx") || !strstr(image, ".version 7.8") || !strstr(image, ".target sm_75")) {
        char *log = NULL;
        size_t room = 0;
        for (unsigned i = 0; i < count; i++) {
            if (options[i] == 5) log = values[i];
            if (options[i] == 6) room = (size_t)values[i];
        }
        if (log) snprintf(log, room, "ptxas fatal: %s\n",
                          *setting("reject_ptx") ? "told to reject it" : "this is no PTX 7.8 for sm_75");
        code = INVALID_PTX;
    } else {
        Module *loaded = calloc(1, sizeof *loaded);
        *loaded = (Module){MAGIC_MODULE, current(), current()->id, strdup(image)};
        *module = loaded;
        module_count++;
    }
    return code;
}


CUDA(cuModuleUnload, (Module *module), (module), "") {
    int code = SUCCESS;
    if (is(module, MAGIC_MODULE)) module->magic = 0, module_count--;
    else code = INVALID_HANDLE;
    return code;
}


CUDA(cuModuleGetFunction, (void **function, Module *module, const char *name), (function, module, name), " %s", name) {
    int code = SUCCESS;
    char entry[160];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (!is(module, MAGIC_MODULE)) code = INVALID_HANDLE;
    else if (!strstr(module->ptx, entry)) code = NOT_FOUND;
    else {
        Function *found = calloc(1, sizeof *found);
        found->magic = MAGIC_FUNCTION;
        found->module = module;
        snprintf(found->name, sizeof found->name, "%s", name);
        *function = found;
    }
    return code;
}


CUDA(cuMemPoolCreate, (void **pool, const int *properties), (pool, properties), " %d", properties[3]) {
    int code = SUCCESS;
    if (unsafe_now()) code = CAPTURE_UNSUPPORTED;
    else if (!*setting("pools")) code = NOT_SUPPORTED;
    else if (properties[0] != 1 || properties[1] || properties[2] != 1) code = INVALID_VALUE;
    else {
        Pool *made = calloc(1, sizeof *made);
        *made = (Pool){MAGIC_POOL, properties[3], 0};
        *pool = made;
    }
    return code;
}


CUDA(cuMemPoolSetAttribute, (Pool *pool, int attribute, const void *value), (pool, attribute, value), " %d", attribute) {
    int code = SUCCESS;
    if (!is(pool, MAGIC_POOL) || attribute != 4) code = INVALID_VALUE;
    else memcpy(&pool->kept, value, sizeof pool->kept);
    return code;
}


CUDA(cuMemPoolDestroy, (Pool *pool), (pool), "") {
    int code = SUCCESS;
    if (is(pool, MAGIC_POOL)) pool->magic = 0;
    else code = INVALID_VALUE;
    return code;
}


static void remember(const void *data, size_t size, int device, int managed, int owned) {
    if (memory_count == MAX_MEMORY) {
        /* What was said first is forgotten first; what was allocated here is not. */
        size_t i = 0;
        while (i < MAX_MEMORY && memories[i].owned) i++;
        if (i == MAX_MEMORY) abort();
        memmove(memories + i, memories + i + 1, (--memory_count - i) * sizeof *memories);
    }
    memories[memory_count++] = (Memory){(uintptr_t)data, size, device, managed, owned};
}

CUDA(cuMemAllocFromPoolAsync, (uint64_t *address, size_t size, Pool *pool, void *stream), (address, size, pool, stream), " %zu", size) {
    int code = usable(stream);
    if (!code && (!is(pool, MAGIC_POOL) || pool->device != current()->device || pool->kept != UINT64_MAX || !size))
        code = INVALID_VALUE;
    if (!code) {
        /* As little is known of what it holds as on a device. */
        void *data = aligned_alloc(256, (size + 255) / 256 * 256);
        memset(data, 0xA5, size);
        remember(data, size, pool->device, 0, 1);
        *address = (uintptr_t)data;
        allocations++;
        outstanding += size;
    }
    return code;
}


CUDA(cuMemFreeAsync, (uint64_t address, void *stream), (address, stream), "") {
    int code = usable(stream);
    size_t i = 0;
    while (i < memory_count && !(memories[i].owned && memories[i].data == address)) i++;
    if (!code && i == memory_count) code = INVALID_VALUE;
    if (!code) {
        outstanding -= memories[i].size;
        free((void *)memories[i].data);
        memories[i] = memories[--memory_count];
    }
    return code;
}


int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra);
int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    pthread_mutex_lock(&lock);
    int code = told("cuLaunchKernel");
    if (!code) code = usable(stream);
    if (!code && (!is(function, MAGIC_FUNCTION) || function->module->context_id != current()->id)) code = INVALID_HANDLE;
    if (!code && (!gx || !gy || !gz || !bx || !by || !bz || gx > 0x7fffffff || gy > 65535 || gz > 65535)) code = INVALID_VALUE;
    if (!code && ((uint64_t)bx * by * bz > 1024 || shared > 48 * 1024 || !arguments || extra)) code = INVALID_VALUE;
    stub_executor *run = code ? NULL : executor;
    if (code) note("cuLaunchKernel = %d", code);
    else note("cuLaunchKernel %s %u %u %u %u %u %u %u %p", function->name, gx, gy, gz, bx, by, bz, shared, stream);
    pthread_mutex_unlock(&lock);
    /* In order: what was launched before has run. */
    if (run) run(function->name, grid, block, shared, arguments);
    return code;
}

void stub_set(const char *name, int64_t value) {
    pthread_mutex_lock(&lock);
    *setting(name) = value;
    pthread_mutex_unlock(&lock);
}

void stub_reset(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < setting_count; i++)
        if (!strncmp(settings[i].name, "cu", 2) || !strcmp(settings[i].name, "skip") ||
            !strcmp(settings[i].name, "reject_ptx"))
            settings[i].value = 0;
    journal_size = 0;
    if (journal) *journal = 0;
    allocations = 0;
    pthread_mutex_unlock(&lock);
}

const char *stub_journal(void) { return journal ? journal : ""; }
void *stub_context(int device) { return new_context(device); }

void *stub_primary(int device) {
    if (!primaries[device]) primaries[device] = new_context(device);
    return primaries[device];
}

void stub_set_current(void *context) {
    depth = context != NULL;
    stack[0] = context;
}

void *stub_current(void) { return current(); }
int stub_depth(void) { return depth; }
void stub_replace(void *context) { ((Context *)context)->id = next_id++; }

void *stub_stream(void *context) {
    Stream *stream = calloc(1, sizeof *stream);
    *stream = (Stream){MAGIC_STREAM, 0, 0, context};
    return stream;
}

int stub_capture(void *handle, int on) {
    Stream *stream = handle;
    pthread_mutex_lock(&lock);
    int slot = 0;
    while (capturing[slot] != (on ? NULL : stream)) slot++;
    capturing[slot] = on ? stream : NULL;
    capturing_streams += on ? 1 : -1;
    stream->capturing = on;
    int sound = !stream->broken;
    stream->broken = 0;
    pthread_mutex_unlock(&lock);
    return sound;
}

void stub_memory(const void *data, size_t size, int device, int managed) {
    pthread_mutex_lock(&lock);
    /* The newest word on an address is the one that holds. */
    for (size_t i = 0; i < memory_count; i++)
        if (!memories[i].owned && memories[i].data - (uintptr_t)data < size) memories[i--] = memories[--memory_count];
    remember(data, size, device, managed, 0);
    pthread_mutex_unlock(&lock);
}

size_t stub_outstanding(void) { return outstanding; }
size_t stub_allocations(void) { return allocations; }
int stub_relaxed(void) { return relaxed_threads; }
int stub_modules(void) { return module_count; }
void stub_execute_with(stub_executor *with) { executor = with; }
