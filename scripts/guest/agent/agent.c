/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carries out what the host asks for on a serial port: runs commands, keeps memory that stays where it is and tells its
 * physical address, drives the edu device. README.md has the protocol.
 *
 *     agent /dev/ttyAMA1
 */
#define _GNU_SOURCE
#include "../el2/edu.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* What stands behind the line of a message at most, and the line itself. */
#define MAX_DATA 65536u
#define MAX_LINE 128u
#define MAX_JOBS 16u
#define OUTPUT_BYTES 4096u
/* What a pipe holds. */
#define PIPE_BYTES 65536u
#define PFN_MASK ((1ull << 55) - 1)
#define PAGE_PRESENT (1ull << 63)
#define HUGE_PAGES "/proc/sys/vm/nr_hugepages"
/* What a transfer that was aborted may leave in the device. */
#define UNTOUCHED 0xa5

/* A command that runs. */
struct job {
    unsigned id;
    pid_t pid;
    int out, err;
    bool ended;
    int status;
};

/* Memory that was allocated: pinned for as long as `ring` is open. */
struct memory {
    struct memory *next;
    uint8_t *at;
    size_t bytes;
    uint64_t physical;
    int ring;
};

struct request {
    unsigned id;
    char verb[16];
    uint64_t a, b;
    uint32_t length;
    uint8_t data[MAX_DATA + 1];
};

static int port;
static struct job jobs[MAX_JOBS];
static struct memory *memories;
static struct edu edu;
/* What the device is given, and what it had, goes through this page. */
static struct memory *window;
static uint8_t answer[MAX_DATA];

static void put(const void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t count = write(port, (const uint8_t *)data + done, bytes - done);
        if (count < 0 && errno != EINTR && errno != EAGAIN) {
            exit(1);
        }
        done += count > 0 ? count : 0;
    }
}

static void say(unsigned id, const char *word, uint64_t value, const void *data, size_t bytes)
{
    char line[MAX_LINE];
    int length = snprintf(line, sizeof(line), "%u %s %" PRIu64 " 0 %zu\n", id, word, value, bytes);
    put(line, length);
    put(data, bytes);
}

static void fail(unsigned id, const char *format, ...)
{
    char text[256];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    say(id, "error", 0, text, (size_t)length < sizeof(text) ? (size_t)length : sizeof(text) - 1);
}

static bool get(void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t count = read(port, (uint8_t *)data + done, bytes - done);
        if (count == 0 || (count < 0 && errno != EINTR)) {
            return false;
        }
        done += count > 0 ? count : 0;
    }
    return true;
}

/* The next message; false when the port is gone, or speaks another language. */
static bool receive(struct request *request)
{
    char line[MAX_LINE];
    size_t length = 0;
    do {
        if (length == sizeof(line) - 1 || !get(line + length, 1)) {
            return false;
        }
    } while (line[length++] != '\n');
    line[length] = 0;
    if (sscanf(line, "%u %15s %" SCNu64 " %" SCNu64 " %" SCNu32, &request->id, request->verb, &request->a, &request->b,
               &request->length) != 5 || request->length > MAX_DATA) {
        return false;
    }
    request->data[request->length] = 0;
    return get(request->data, request->length);
}

/* Commands. */

static struct job *job_of(unsigned id)
{
    for (struct job *job = jobs; job < jobs + MAX_JOBS; job++) {
        if (job->pid != 0 && job->id == id) {
            return job;
        }
    }
    return NULL;
}

static void close_pair(const int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

static void run(const struct request *request)
{
    struct job *job = jobs;
    int out[2], err[2];
    while (job < jobs + MAX_JOBS && job->pid != 0) {
        job++;
    }
    if (job == jobs + MAX_JOBS) {
        fail(request->id, "%u commands run already", MAX_JOBS);
        return;
    }
    if (pipe2(out, O_CLOEXEC) < 0) {
        fail(request->id, "pipe: %s", strerror(errno));
        return;
    }
    if (pipe2(err, O_CLOEXEC) < 0) {
        fail(request->id, "pipe: %s", strerror(errno));
        close_pair(out);
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        int nothing = open("/dev/null", O_RDONLY);
        dup2(nothing, 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        signal(SIGPIPE, SIG_DFL);
        execl("/bin/sh", "sh", "-c", (const char *)request->data, NULL);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    if (pid < 0) {
        fail(request->id, "fork: %s", strerror(errno));
        close(out[0]);
        close(err[0]);
        return;
    }
    *job = (struct job){ .id = request->id, .pid = pid, .out = out[0], .err = err[0] };
}

/* Passes on what there is; closes a pipe that has come to its end. */
static void pass(struct job *job, int *pipe, const char *word)
{
    static uint8_t data[OUTPUT_BYTES];
    ssize_t count = read(*pipe, data, sizeof(data));
    if (count > 0) {
        say(job->id, word, 0, data, count);
        return;
    }
    close(*pipe);
    *pipe = -1;
}

static bool readable(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };
    return fd >= 0 && poll(&one, 1, 0) > 0;
}

/* What the command wrote before it ended comes first. A process that it left behind keeps its pipes for nothing. */
static void finish(struct job *job)
{
    for (unsigned i = 0; i < PIPE_BYTES / OUTPUT_BYTES && readable(job->out); i++) {
        pass(job, &job->out, "out");
    }
    for (unsigned i = 0; i < PIPE_BYTES / OUTPUT_BYTES && readable(job->err); i++) {
        pass(job, &job->err, "err");
    }
    if (job->out >= 0) {
        close(job->out);
    }
    if (job->err >= 0) {
        close(job->err);
    }
    say(job->id, "exit", WIFEXITED(job->status) ? WEXITSTATUS(job->status) : 128 + WTERMSIG(job->status), NULL, 0);
    job->pid = 0;
}

static void reap(void)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        for (struct job *job = jobs; job < jobs + MAX_JOBS; job++) {
            if (job->pid == pid) {
                job->ended = true;
                job->status = status;
            }
        }
    }
}

/* Memory. */

/* Physical address of a page of this process; 0 when it is not told. */
static uint64_t physical(const void *page)
{
    uint64_t entry = 0;
    uint64_t size = sysconf(_SC_PAGESIZE);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool found = fd >= 0 && pread(fd, &entry, sizeof(entry), (uintptr_t)page / size * sizeof(entry)) == sizeof(entry);
    if (fd >= 0) {
        close(fd);
    }
    return found && (entry & PAGE_PRESENT) ? (entry & PFN_MASK) * size : 0;
}

/* The kernel moves no page that a device may be using: a buffer that is registered with io_uring is pinned like one. */
static int pin(void *at, size_t bytes)
{
    struct io_uring_params params = { 0 };
    struct iovec buffer = { .iov_base = at, .iov_len = bytes };
    int ring = syscall(__NR_io_uring_setup, 1, &params);
    if (ring >= 0 && syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) < 0) {
        int error = errno;
        close(ring);
        errno = error;
        return -1;
    }
    return ring;
}

/* One huge page more. */
static bool add_huge_page(int change)
{
    int count = 0;
    FILE *file = fopen(HUGE_PAGES, "r+");
    bool done = file && fscanf(file, "%d", &count) == 1 && fseek(file, 0, SEEK_SET) == 0 &&
                fprintf(file, "%d\n", count + change) > 0 && fflush(file) == 0;
    if (file) {
        fclose(file);
    }
    return done;
}

static size_t huge_page_bytes(void)
{
    char line[128];
    size_t kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof(line), file) && sscanf(line, "Hugepagesize: %zu kB", &kib) != 1) {
    }
    if (file) {
        fclose(file);
    }
    return kib * 1024;
}

static bool contiguous(const struct memory *memory, size_t page)
{
    for (size_t done = page; done < memory->bytes; done += page) {
        if (physical(memory->at + done) != memory->physical + done) {
            return false;
        }
    }
    return memory->physical != 0;
}

/* Physically contiguous, all zeros. Up to a page, or a huge page. NULL, and what failed. */
static struct memory *allocate(size_t bytes, const char **failed)
{
    size_t page = sysconf(_SC_PAGESIZE), huge = huge_page_bytes();
    bool large = bytes > page;
    size_t mapped = large ? huge : page;
    struct memory *memory = calloc(1, sizeof(*memory));
    if (!memory || bytes == 0 || bytes > mapped) {
        *failed = "more than a huge page";
        errno = bytes == 0 ? EINVAL : ENOMEM;
        free(memory);
        return NULL;
    }
    if (large && !add_huge_page(1)) {
        *failed = HUGE_PAGES;
        free(memory);
        return NULL;
    }
    *memory = (struct memory){ .bytes = large ? huge : page };
    memory->at = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | (large ? MAP_HUGETLB : 0), -1, 0);
    /* A command that is started must not have it: the kernel would copy what is pinned, also a page that is not the host's. */
    if (memory->at == MAP_FAILED || madvise(memory->at, mapped, MADV_DONTFORK) < 0) {
        *failed = large ? "a huge page" : "a page";
    } else {
        memset(memory->at, 0, mapped);
        memory->ring = pin(memory->at, mapped);
        *failed = "pinning by io_uring";
        if (memory->ring >= 0) {
            /* Pinned first: that may move it. */
            memory->physical = physical(memory->at);
            if (contiguous(memory, page)) {
                memory->next = memories;
                memories = memory;
                return memory;
            }
            *failed = "/proc/self/pagemap";
            errno = ENODATA;
            close(memory->ring);
        }
        munmap(memory->at, mapped);
    }
    if (large) {
        int error = errno;
        add_huge_page(-1);
        errno = error;
    }
    free(memory);
    return NULL;
}

/* Where the bytes at a physical address are that was allocated; NULL: they were not. */
static uint8_t *find(uint64_t address, size_t bytes)
{
    for (struct memory *memory = memories; memory; memory = memory->next) {
        if (address >= memory->physical && address - memory->physical <= memory->bytes &&
            bytes <= memory->bytes - (address - memory->physical)) {
            return memory->at + (address - memory->physical);
        }
    }
    return NULL;
}

static void release(const struct request *request)
{
    size_t page = sysconf(_SC_PAGESIZE);
    for (struct memory **link = &memories; *link; link = &(*link)->next) {
        struct memory *memory = *link;
        if (memory->physical != request->a || memory == window) {
            continue;
        }
        *link = memory->next;
        close(memory->ring);
        munmap(memory->at, memory->bytes);
        if (memory->bytes > page) {
            add_huge_page(-1);
        }
        free(memory);
        say(request->id, "done", 0, NULL, 0);
        return;
    }
    fail(request->id, "0x%" PRIx64 " was not allocated", request->a);
}

static sigjmp_buf faulted;
static volatile sig_atomic_t copying;

static void on_fault(int signal)
{
    if (copying) {
        siglongjmp(faulted, signal);
    }
    _exit(128 + signal);
}

/* Copies; 0, or the signal that a load or store ended in: somebody keeps this CPU from the page. */
static int copy(void *to, const void *from, size_t bytes)
{
    int signal = sigsetjmp(faulted, 1);
    if (signal == 0) {
        copying = 1;
        memcpy(to, from, bytes);
        __sync_synchronize();
    }
    copying = 0;
    return signal;
}

static const char *signal_name(int signal)
{
    return signal == SIGSEGV ? "SIGSEGV" : "SIGBUS";
}

static void access_memory(const struct request *request, bool writes)
{
    uint64_t bytes = writes ? request->length : request->b;
    uint8_t *at = bytes > MAX_DATA ? NULL : find(request->a, bytes);
    if (!at) {
        fail(request->id, "0x%" PRIx64 ", %" PRIu64 " bytes: not all of it was allocated", request->a, bytes);
        return;
    }
    int signal = writes ? copy(at, request->data, bytes) : copy(answer, at, bytes);
    if (signal != 0) {
        fail(request->id, "the CPU's %s 0x%" PRIx64 " ended in %s", writes ? "store to" : "load from", request->a,
             signal_name(signal));
    } else {
        say(request->id, "done", 0, answer, writes ? 0 : bytes);
    }
}

/* The device. */

/* Whether it can be used; what is missing has been told. */
static bool open_device(unsigned id)
{
    const char *failed = NULL;
    if (!window && !(window = allocate(EDU_BYTES, &failed))) {
        fail(id, "%s: %s", failed, strerror(errno));
        return false;
    }
    if (!edu.registers && (failed = edu_open(&edu))) {
        fail(id, "%s: %s", failed, strerror(errno));
        return false;
    }
    return true;
}

static void transfer(const struct request *request, bool writes)
{
    uint64_t bytes = writes ? request->length : request->b;
    if (bytes == 0 || bytes > EDU_BYTES) {
        fail(request->id, "%" PRIu64 " bytes: the device moves 1 to %u", bytes, EDU_BYTES);
        return;
    }
    if (!open_device(request->id)) {
        return;
    }
    bool done;
    if (writes) {
        memcpy(window->at, request->data, bytes);
        __sync_synchronize();
        done = edu_read(&edu, window->physical, bytes) && edu_write(&edu, request->a, bytes);
    } else {
        memset(window->at, UNTOUCHED, bytes);
        __sync_synchronize();
        done = edu_read(&edu, window->physical, bytes) && edu_read(&edu, request->a, bytes);
        memset(window->at, 0, bytes);
        __sync_synchronize();
        done = done && edu_write(&edu, window->physical, bytes);
    }
    __sync_synchronize();
    if (done) {
        say(request->id, "done", 0, window->at, writes ? 0 : bytes);
    } else {
        fail(request->id, "the device does not come to an end");
    }
}

/* Whether to go on. */
static bool carry_out(const struct request *request)
{
    const char *verb = request->verb;
    if (strcmp(verb, "run") == 0) {
        run(request);
    } else if (strcmp(verb, "kill") == 0) {
        struct job *job = job_of(request->id);
        /* It may not have its session yet. */
        if (job && kill(-job->pid, SIGKILL) < 0) {
            kill(job->pid, SIGKILL);
        }
    } else if (strcmp(verb, "allocate") == 0) {
        const char *failed = NULL;
        struct memory *memory = allocate(request->a, &failed);
        if (memory) {
            say(request->id, "done", memory->physical, NULL, 0);
        } else {
            fail(request->id, "%s: %s", failed, strerror(errno));
        }
    } else if (strcmp(verb, "free") == 0) {
        release(request);
    } else if (strcmp(verb, "read") == 0 || strcmp(verb, "write") == 0) {
        access_memory(request, verb[0] == 'w');
    } else if (strcmp(verb, "dma-read") == 0 || strcmp(verb, "dma-write") == 0) {
        transfer(request, verb[4] == 'w');
    } else if (strcmp(verb, "end") == 0) {
        return false;
    } else {
        fail(request->id, "unknown request");
    }
    return true;
}

static bool open_port(const char *name)
{
    struct termios how;
    port = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (port < 0 || tcgetattr(port, &how) < 0) {
        return false;
    }
    cfmakeraw(&how);
    return tcsetattr(port, TCSANOW, &how) == 0;
}

int main(int argc, char **argv)
{
    static struct request request;
    struct sigaction fault = { .sa_handler = on_fault };
    if (argc != 2 || !open_port(argv[1])) {
        fprintf(stderr, "usage: agent PORT: %s\n", strerror(errno));
        return 2;
    }
    sigaction(SIGBUS, &fault, NULL);
    sigaction(SIGSEGV, &fault, NULL);
    signal(SIGPIPE, SIG_IGN);
    say(0, "ready", 0, NULL, 0);
    for (bool on = true; on;) {
        struct pollfd fds[1 + 2 * MAX_JOBS] = { { .fd = port, .events = POLLIN } };
        bool running = false;
        for (unsigned i = 0; i < MAX_JOBS; i++) {
            struct job *job = &jobs[i];
            fds[1 + 2 * i] = (struct pollfd){ .fd = job->pid ? job->out : -1, .events = POLLIN };
            fds[2 + 2 * i] = (struct pollfd){ .fd = job->pid ? job->err : -1, .events = POLLIN };
            running |= job->pid != 0;
        }
        /* A command may close its output long before it ends. */
        poll(fds, 1 + 2 * MAX_JOBS, running ? 20 : -1);
        reap();
        for (unsigned i = 0; i < MAX_JOBS; i++) {
            struct job *job = &jobs[i];
            if (job->pid == 0) {
                continue;
            }
            if (fds[1 + 2 * i].revents) {
                pass(job, &job->out, "out");
            }
            if (fds[2 + 2 * i].revents) {
                pass(job, &job->err, "err");
            }
            if (job->ended) {
                finish(job);
            }
        }
        if (fds[0].revents) {
            on = receive(&request) && carry_out(&request);
        }
    }
    return 0;
}
