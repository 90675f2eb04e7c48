// A pretended NVIDIA driver: libcuda.so.1 and libnvidia-ml.so.1 in one, as far as MAX asks for it, after the public
// documentation of the CUDA driver API and of NVML.
//
// It pretends one Hopper GPU with 16 GiB. Its memory is the process's, which the system gives as it is written. Copies
// are done when they are asked for, so nothing is ever waited for. A launch outside of the GPU's limits is refused, any
// other computes nothing: what it would have written keeps its old bytes. What is captured is counted and not done,
// neither then nor when the graph is launched.
//
// Calls that matter are lines in the file that PRETENDED_DRIVER_LOG names, errors among them as "refused ...".

#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int Result;
typedef uint64_t Address;
typedef void *Stream;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900 };

static const uint64_t MEMORY = 16ULL << 30;
static const int SHARED_BY_DEFAULT = 48 << 10, SHARED_AT_MOST = 227 << 10;  // bytes of a block
static const unsigned THREADS_AT_MOST = 1024;                               // of a block

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t used;           // bytes of the GPU's memory
static Stream capturing;        // the stream that is captured
static uint64_t nodes;          // launches and copies of that capture so far
static int the_context;         // there is only one; its address is what callers get
static __thread void *context;  // the thread's current one

// ---- Log

static void note(const char *format, ...) {
    static FILE *file;
    pthread_mutex_lock(&lock);
    const char *path = getenv("PRETENDED_DRIVER_LOG");
    if (!file) file = fopen(path ? path : "/dev/null", "a");
    if (file) {
        va_list values;
        va_start(values, format);
        vfprintf(file, format, values);
        va_end(values);
        fputs(capturing ? " while capturing\n" : "\n", file);
        fflush(file);
    }
    pthread_mutex_unlock(&lock);
}

#define REFUSE(error, ...) return note("refused " __VA_ARGS__), error

// ---- Functions that need not do anything, and those that MAX looks up and does not call here

#define NOTHING(name) Result name(void) { return SUCCESS; }
#define MISSING(name) Result name(void) { REFUSE(NOT_SUPPORTED, #name ", which is not pretended"); }

NOTHING(cuInit) NOTHING(cuCtxDestroy) NOTHING(cuDevicePrimaryCtxRelease_v2)
NOTHING(cuMemMap) NOTHING(cuMemUnmap) NOTHING(cuMemSetAccess)  // what is reserved can be used
NOTHING(cuStreamDestroy) NOTHING(cuStreamWaitEvent) NOTHING(cuEventDestroy) NOTHING(cuEventQuery)
NOTHING(cuModuleUnload)
NOTHING(nvmlInit_v2) NOTHING(nvmlShutdown)

MISSING(cuCtxCreate_v2) MISSING(cuCtxEnablePeerAccess) MISSING(cuCtxGetStreamPriorityRange)
MISSING(cuDeviceCanAccessPeer) MISSING(cuDeviceGetMemPool) MISSING(cuDeviceGetP2PAttribute)
MISSING(cuEventElapsedTime) MISSING(cuFuncGetAttribute) MISSING(cuGraphAddChildGraphNode)
MISSING(cuGraphAddEmptyNode) MISSING(cuGraphAddKernelNode) MISSING(cuGraphAddMemcpyNode) MISSING(cuGraphAddMemsetNode)
MISSING(cuGraphCreate) MISSING(cuGraphDebugDotPrint) MISSING(cuGraphInstantiate) MISSING(cuGraphInstantiateWithFlags)
MISSING(cuGraphKernelNodeSetAttribute) MISSING(cuLaunchHostFunc) MISSING(cuMemAllocAsync)
MISSING(cuMemExportToShareableHandle) MISSING(cuMemFreeAsync) MISSING(cuMemGetAddressRange_v2)
MISSING(cuMemGetHandleForAddressRange) MISSING(cuMemHostAlloc) MISSING(cuMemHostGetDevicePointer_v2)
MISSING(cuMemHostRegister_v2) MISSING(cuMemHostUnregister) MISSING(cuMemPoolSetAccess) MISSING(cuMemPoolTrimTo)
MISSING(cuMemcpyBatchAsync) MISSING(cuMemcpyDtoD_v2) MISSING(cuMemcpyDtoH_v2) MISSING(cuMemcpyHtoD_v2)
MISSING(cuMemcpyPeer) MISSING(cuMemcpyPeerAsync) MISSING(cuMemsetD16Async) MISSING(cuMemsetD16_v2)
MISSING(cuMemsetD2D32Async) MISSING(cuMemsetD2D32_v2) MISSING(cuMemsetD32Async) MISSING(cuMemsetD32_v2)
MISSING(cuMemsetD8Async) MISSING(cuMemsetD8_v2) MISSING(cuModuleGetGlobal_v2) MISSING(cuMulticastAddDevice)
MISSING(cuMulticastBindMem) MISSING(cuMulticastCreate) MISSING(cuMulticastGetGranularity) MISSING(cuMulticastUnbind)
MISSING(cuOccupancyMaxActiveBlocksPerMultiprocessor) MISSING(cuPointerGetAttributes) MISSING(cuPointerSetAttribute)
MISSING(cuStreamGetCaptureInfo_v2) MISSING(cuStreamWaitValue64_v2) MISSING(cuTensorMapEncodeIm2col)
MISSING(cuTensorMapEncodeTiled)
MISSING(nvmlDeviceGetComputeRunningProcesses_v3)

// ---- The device and its context

Result cuDriverGetVersion(int *version) {
    const char *given = getenv("PRETENDED_DRIVER_VERSION");
    return *version = given ? atoi(given) : 13000, SUCCESS;
}
Result cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int *device, int number) { return *device = number, number ? INVALID_VALUE : SUCCESS; }
Result cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "NVIDIA H200"), SUCCESS; }

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const int table[][2] = {
        {14, 512},  // alignment of textures
        {18, 0},    // integrated in the host
        {33, 1},    // PCI bus
        {34, 0},    // PCI device
        {50, 0},    // PCI domain
        {103, 1},   // memory can be shared through file descriptors
        {110, 1},   // and be reached by other devices
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i][0] == attribute) return *value = table[i][1], SUCCESS;
    REFUSE(INVALID_VALUE, "attribute %d of the device, which is not pretended", attribute);
}

Result cuDeviceGetGraphMemAttribute(int device, int attribute, uint64_t *bytes) { return *bytes = 0, SUCCESS; }

Result cuDevicePrimaryCtxRetain(void **made, int device) { return *made = &the_context, SUCCESS; }
Result cuCtxGetCurrent(void **current) { return *current = context, SUCCESS; }
Result cuCtxSetCurrent(void *given) { return context = given, SUCCESS; }
Result cuCtxPushCurrent(void *given) { return context = given, SUCCESS; }
Result cuCtxPopCurrent(void **current) {
    if (current) *current = context;
    return SUCCESS;
}

Result cuGetErrorName(Result error, const char **name) {
    return *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR", SUCCESS;
}
Result cuGetErrorString(Result error, const char **text) {
    return *text = error == OUT_OF_MEMORY ? "out of memory" : "refused by the pretended driver", SUCCESS;
}

// ---- Memory

typedef enum { NOWHERE, RESERVED, ALLOCATED, PAGE_LOCKED } Kind;  // the second and third are the GPU's

static struct Range {
    Address begin;
    size_t size;
    Kind kind;
} ranges[256];
enum { RANGES = sizeof ranges / sizeof *ranges };

static Address take(size_t size, Kind kind) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return 0;
    pthread_mutex_lock(&lock);
    int place = 0;
    while (place < RANGES && ranges[place].kind != NOWHERE) place++;
    if (place < RANGES) ranges[place] = (struct Range){(Address)memory, size, kind};
    pthread_mutex_unlock(&lock);
    return place < RANGES ? (Address)memory : 0;
}

static Result give_back(Address begin) {
    pthread_mutex_lock(&lock);
    int place = 0;
    while (place < RANGES && (ranges[place].kind == NOWHERE || ranges[place].begin != begin)) place++;
    if (place < RANGES) {
        munmap((void *)begin, ranges[place].size);
        if (ranges[place].kind == ALLOCATED) used -= ranges[place].size;
        ranges[place].kind = NOWHERE;
    }
    pthread_mutex_unlock(&lock);
    if (place == RANGES) REFUSE(INVALID_VALUE, "to free memory that was not taken");
    return SUCCESS;
}

static Kind kind_of(Address begin, size_t size) {
    Kind kind = NOWHERE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < RANGES; i++)
        if (ranges[i].kind && begin >= ranges[i].begin && begin + size <= ranges[i].begin + ranges[i].size)
            kind = ranges[i].kind;
    pthread_mutex_unlock(&lock);
    return kind;
}
static int on_device(Address begin, size_t size) {
    Kind kind = kind_of(begin, size);
    return kind == RESERVED || kind == ALLOCATED;
}

Result cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = MEMORY - used, *total = MEMORY, SUCCESS; }
Result cuMemGetAllocationGranularity(size_t *size, void *of, int option) { return *size = 2 << 20, SUCCESS; }

Result cuMemAddressReserve(Address *begin, size_t size, size_t alignment, Address wish, uint64_t flags) {
    note("reserve %zu", size);
    return (*begin = take(size, RESERVED)) ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemAddressFree(Address begin, size_t size) { return give_back(begin); }

static Result use(size_t size) {
    if (used + size > MEMORY) REFUSE(OUT_OF_MEMORY, "to allocate %zu", size);
    note("allocate %zu", size);
    used += size;
    return SUCCESS;
}
Result cuMemCreate(uint64_t *handle, size_t size, void *properties, uint64_t flags) {
    *handle = size;  // all that is known of it
    return use(size);
}
Result cuMemRelease(uint64_t handle) {
    note("release %zu", (size_t)handle);
    used -= handle;
    return SUCCESS;
}
Result cuMemAlloc_v2(Address *begin, size_t size) {
    Result result = use(size);
    return result ? result : (*begin = take(size, ALLOCATED)) ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemFree_v2(Address begin) { return give_back(begin); }

Result cuMemAllocHost_v2(void **memory, size_t size) {
    note("allocate page-locked %zu", size);
    return (*memory = (void *)take(size, PAGE_LOCKED)) ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemFreeHost(void *memory) { return give_back((Address)memory); }

// ---- Copies

static Result copy(const char *what, Address to, Address from, size_t size, Address host, Stream stream) {
    const char *memory = !host ? "" : kind_of(host, size) == PAGE_LOCKED ? " page-locked" : " PAGEABLE";
    if ((to != host && !on_device(to, size)) || (from != host && !on_device(from, size)))
        REFUSE(INVALID_VALUE, "%s %zu: it is outside of the GPU's memory", what, size);
    note("%s %zu%s to %llx", what, size, memory, (unsigned long long)to);
    if (capturing && stream == capturing) return nodes++, SUCCESS;
    memmove((void *)to, (void *)from, size);
    return SUCCESS;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Stream stream) {
    return copy("copy to device", to, (Address)from, size, (Address)from, stream);
}
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Stream stream) {
    return copy("copy to host", (Address)to, from, size, (Address)to, stream);
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, Stream stream) {
    return copy("copy on device", to, from, size, 0, stream);
}

// ---- Streams and events

Result cuStreamCreate(Stream *stream, unsigned flags) { return *stream = malloc(1), SUCCESS; }
Result cuStreamCreateWithPriority(Stream *stream, unsigned flags, int priority) { return *stream = malloc(1), SUCCESS; }
Result cuStreamSynchronize(Stream stream) {
    if (capturing && stream == capturing) REFUSE(CAPTURE_UNSUPPORTED, "to synchronize a stream that is captured");
    note("synchronize stream");
    return SUCCESS;
}

Result cuEventCreate(void **event, unsigned flags) { return *event = malloc(1), SUCCESS; }
Result cuEventRecord(void *event, Stream stream) { return note("record event %p", event), SUCCESS; }
Result cuEventSynchronize(void *event) { return note("wait for event %p", event), SUCCESS; }

// ---- Kernels

struct Function {
    char name[256];
    int shared;  // bytes that a block may have
};

Result cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
    note("load module");
    return *module = malloc(1), SUCCESS;
}
Result cuModuleGetFunction(struct Function **function, void *module, const char *name) {
    *function = malloc(sizeof **function);
    snprintf((*function)->name, sizeof (*function)->name, "%s", name);
    (*function)->shared = SHARED_BY_DEFAULT;
    return SUCCESS;
}
Result cuFuncGetParamInfo(void *function, size_t number, size_t *offset, size_t *size) {
    return INVALID_VALUE;  // as for a number beyond the last parameter
}
Result cuFuncSetAttribute(struct Function *function, int attribute, int value) {
    if (attribute != 8) return SUCCESS;  // only the shared memory that it may have matters
    if (value > SHARED_AT_MOST) REFUSE(INVALID_VALUE, "to allow %d bytes of shared memory", value);
    function->shared = value;
    return SUCCESS;
}

struct Launch {
    unsigned grid[3], block[3], shared;
    Stream stream;
    void *attributes;
    unsigned count;
};

Result cuLaunchKernelEx(const struct Launch *launch, struct Function *function, void **arguments, void **extra) {
    const unsigned *g = launch->grid, *b = launch->block;
    char text[512];
    snprintf(text, sizeof text, "launch %s grid %u %u %u block %u %u %u shared %u", function->name, g[0], g[1], g[2],
             b[0], b[1], b[2], launch->shared);
    if (!g[0] || !g[1] || !g[2] || g[0] > INT32_MAX || g[1] > UINT16_MAX || g[2] > UINT16_MAX)
        REFUSE(INVALID_VALUE, "%s: its grid", text);
    if (!b[0] || !b[1] || !b[2] || b[2] > 64 || (uint64_t)b[0] * b[1] * b[2] > THREADS_AT_MOST)
        REFUSE(INVALID_VALUE, "%s: its block", text);
    if (launch->shared > (unsigned)function->shared)
        REFUSE(INVALID_VALUE, "%s: it may have %d bytes of shared memory", text, function->shared);
    note("%s", text);
    if (capturing && launch->stream == capturing) nodes++;
    return SUCCESS;
}
Result cuLaunchKernel(struct Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                      unsigned bz, unsigned shared, Stream stream, void **arguments, void **extra) {
    struct Launch launch = {{gx, gy, gz}, {bx, by, bz}, shared, stream, NULL, 0};
    return cuLaunchKernelEx(&launch, function, arguments, extra);
}

// ---- Captures and graphs; a graph is the number of its nodes

Result cuStreamBeginCapture_v2(Stream stream, int mode) {
    if (capturing) REFUSE(CAPTURE_UNSUPPORTED, "a capture within a capture");
    note("begin capture");
    capturing = stream, nodes = 0;
    return SUCCESS;
}
Result cuStreamBeginCapture(Stream stream, int mode) { return cuStreamBeginCapture_v2(stream, mode); }
Result cuStreamIsCapturing(Stream stream, int *status) { return *status = capturing && stream == capturing, SUCCESS; }
Result cuStreamEndCapture(Stream stream, uint64_t **graph) {
    if (!capturing || stream != capturing) REFUSE(INVALID_VALUE, "to end a capture that was not begun");
    capturing = NULL;
    note("end capture of %llu nodes", (unsigned long long)nodes);
    *graph = malloc(sizeof **graph);
    **graph = nodes;
    return SUCCESS;
}

struct Instantiation {
    uint64_t flags;
    Stream upload;
    void *failed;
    int result;
};

Result cuGraphInstantiateWithParams(uint64_t **executable, const uint64_t *graph, struct Instantiation *how) {
    *executable = malloc(sizeof **executable);
    **executable = *graph;
    how->result = 0;
    return SUCCESS;
}
Result cuGraphDestroy(uint64_t *graph) { return free(graph), SUCCESS; }
Result cuGraphExecDestroy(uint64_t *executable) { return note("destroy graph"), free(executable), SUCCESS; }
Result cuGraphLaunch(const uint64_t *executable, Stream stream) {
    note("launch graph of %llu nodes", (unsigned long long)*executable);
    return SUCCESS;
}

// ---- NVML, which is asked before there is a context

Result nvmlDeviceGetCount_v2(unsigned *count) { return *count = 1, SUCCESS; }
Result nvmlDeviceGetHandleByIndex(unsigned number, void **device) { return *device = &the_context, SUCCESS; }
Result nvmlDeviceGetName(void *device, char *name, unsigned size) { return cuDeviceGetName(name, size, 0); }
Result nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    return *major = 9, *minor = 0, SUCCESS;
}
Result nvmlDeviceGetCurrentClocksThrottleReasons(void *device, uint64_t *reasons) { return *reasons = 0, SUCCESS; }
Result nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, uint64_t *count) { return *count = 0, SUCCESS; }
Result nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *later) { return *now = *later = 0, SUCCESS; }
Result nvmlSystemGetDriverVersion(char *text, unsigned size) { return snprintf(text, size, "580.65.06"), SUCCESS; }
const char *nvmlErrorString(int error) { return "refused by the pretended driver"; }
Result nvmlDeviceGetMemoryInfo(void *device, uint64_t total_free_used[3]) {
    total_free_used[0] = MEMORY, total_free_used[1] = MEMORY - used, total_free_used[2] = used;
    return SUCCESS;
}

struct PciInfo {
    char short_place[16];
    unsigned domain, bus, device, number, maker;
    char place[32];
};
Result nvmlDeviceGetPciInfo_v3(void *device, struct PciInfo *info) {
    *info = (struct PciInfo){"0000:01:00.0", 0, 1, 0, 0, 0, "00000000:01:00.0"};
    return SUCCESS;
}
