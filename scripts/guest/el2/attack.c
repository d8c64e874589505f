/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A protected VM, and its host's attacks on it, on EL2's memory and on the server's: by loads and stores of the CPU, and by
 * DMA of the edu device. Prints a line for each: `EVENT OK FIELDS`, FIELDS being the inside of a JSON object.
 *
 *     attack table            one VM, each attack once, then a page lent and taken back, then the VM's end
 *     attack storm COUNT      COUNT VMs, two at a time, created and destroyed while the device attacks all the time
 */
#define _GNU_SOURCE
#include "edu.h"
#include "pvm.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <unistd.h>

#define PFN_MASK ((1ull << 55) - 1)
#define PAGE_PRESENT (1ull << 63)
#define NOWHERE UINT64_MAX
#define LOG_BYTES (1 << 20)
#define READ_ALL 3
/* One attack's DMA. The device reports each 32 bits that it could not move with an event of its own. */
#define DMA_WORDS 1u
#define DMA_BYTES (DMA_WORDS * sizeof(uint64_t))
#define RESERVED_MEMORY "/proc/device-tree/reserved-memory/"

enum who { CPU, DMA };
enum what { READ, WRITE };
static const char *const who_names[] = { "cpu", "dma" };
static const char *const what_names[] = { "read", "write" };

static bool all_ok = true;
/* Where the attack that is reported next began, ns of the virtual counter: the clock that SMMU events are dated by. */
static uint64_t began;

static uint64_t counter_ns(void)
{
    uint64_t ticks, hz;
    __asm__ volatile("isb\n mrs %0, cntvct_el0\n mrs %1, cntfrq_el0" : "=r"(ticks), "=r"(hz));
    return (uint64_t)((unsigned __int128)ticks * 1000000000u / hz);
}

static void say(bool ok, const char *event, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("%s %s ", event, ok ? "true" : "false");
    vprintf(format, list);
    printf("\n");
    fflush(stdout);
    va_end(list);
    all_ok &= ok;
}

static void fail(const char *what)
{
    say(false, "attack", "\"error\":\"%s: %s\"", what, strerror(errno));
}

/* Physical address of a page of ours; NOWHERE when it is not there. Touched before, it stays. */
static uint64_t physical(const void *page)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool found = fd >= 0 && pread(fd, &entry, sizeof(entry), (uintptr_t)page / PVM_PAGE * sizeof(entry)) == sizeof(entry);
    if (fd >= 0) {
        close(fd);
    }
    return found && (entry & PAGE_PRESENT) && (entry & PFN_MASK) ? (entry & PFN_MASK) * PVM_PAGE : NOWHERE;
}

/* The middle of what EL2 reserved at boot, by the kernel's log: where it keeps its page tables. */
static uint64_t el2_memory(void)
{
    static char log[LOG_BYTES];
    int length = klogctl(READ_ALL, log, sizeof(log) - 1);
    unsigned long long address, mib;
    log[length < 0 ? 0 : length] = 0;
    for (const char *at = log; (at = strstr(at, "kvm [")); at++) {
        if (sscanf(at, "kvm [%*d]: Reserved %llu MiB at 0x%llx", &mib, &address) == 2) {
            return address + (mib << 19);
        }
    }
    return NOWHERE;
}

/* The hypervisor memory of the server, by the device tree. */
static uint64_t carveout(void)
{
    FILE *names = popen("ls " RESERVED_MEMORY, "r");
    char name[64];
    unsigned long long address = NOWHERE;
    while (names && address == NOWHERE && fgets(name, sizeof(name), names)) {
        sscanf(name, "smmu-cosim@%llx", &address);
    }
    if (names) {
        pclose(names);
    }
    return address;
}

static sigjmp_buf faulted;
static volatile sig_atomic_t fault_signal;

static void on_fault(int signal)
{
    fault_signal = signal;
    siglongjmp(faulted, 1);
}

/* A load or a store of the CPU; 0, or the signal that it ended in. */
static int touch(volatile uint64_t *at, enum what what, uint64_t *value)
{
    struct sigaction action = { .sa_handler = on_fault }, segv, bus;
    sigaction(SIGSEGV, &action, &segv);
    sigaction(SIGBUS, &action, &bus);
    fault_signal = 0;
    if (sigsetjmp(faulted, 1) == 0) {
        if (what == READ) {
            *value = *at;
        } else {
            *at = *value;
        }
        __sync_synchronize();
    }
    sigaction(SIGSEGV, &segv, NULL);
    sigaction(SIGBUS, &bus, NULL);
    return fault_signal;
}

static void row(enum who who, enum what what, const char *target, uint64_t address, const char *result)
{
    uint64_t now = counter_ns();
    say(true, "attack",
        "\"who\":\"%s\",\"what\":\"%s\",\"target\":\"%s\",\"address\":\"0x%llx\",\"result\":\"%s\",\"from\":%llu,\"to\":%llu",
        who_names[who], what_names[what], target, (unsigned long long)address, result, (unsigned long long)began,
        (unsigned long long)now);
    began = now;
}

static const char *signal_name(int signal)
{
    return signal == SIGSEGV ? "SIGSEGV" : signal == SIGBUS ? "SIGBUS" : "reached";
}

/* Physical memory that the kernel calls no RAM, through /dev/mem. */
static void cpu_by_device(const char *target, uint64_t address)
{
    int fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, PVM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, address);
    uint64_t value = 0;
    if (page == MAP_FAILED) {
        row(CPU, READ, target, address, errno == EPERM ? "refused by the kernel" : strerror(errno));
    } else {
        int signal = touch(page, READ, &value);
        row(CPU, READ, target, address, signal_name(signal));
        /* What stands there, so that nothing breaks where nobody is in the way. */
        row(CPU, WRITE, target, address, signal_name(touch(page, WRITE, &value)));
        munmap(page, PVM_PAGE);
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* The kernel's own load from RAM, on behalf of a reader of /proc/kcore. */
static void cpu_by_kcore(const char *target, uint64_t address)
{
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    uint64_t value = 0;
    int fd = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &header, sizeof(header)) != sizeof(header)) {
        row(CPU, READ, target, address, "no /proc/kcore");
    } else {
        bool found = false;
        for (int i = 0; i < header.e_phnum && !found; i++) {
            found = pread(fd, &segment, sizeof(segment), header.e_phoff + i * sizeof(segment)) == sizeof(segment) &&
                    segment.p_type == PT_LOAD && address >= segment.p_paddr &&
                    address - segment.p_paddr < segment.p_memsz && segment.p_paddr != 0;
        }
        if (!found) {
            row(CPU, READ, target, address, "not in /proc/kcore");
        } else {
            ssize_t length = pread(fd, &value, sizeof(value), segment.p_offset + (address - segment.p_paddr));
            row(CPU, READ, target, address, length < 0 ? strerror(errno) : value == 0 ? "zeros" : "reached");
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* What a read by the device brought. */
enum came { NOTHING, ZEROS, OTHER, EXPECTED };
static const char *const came_names[] = { "nothing came", "zeros", "reached", "reached" };

/*
 * The device's buffer is filled with a pattern of ours, then told to read the target. A read that fails leaves the pattern
 * or zeros; where zeros may be what stands there, the SMMU's event decides. `expected`, unless NULL, is what stands there.
 */
static enum came dma_reads(struct edu *edu, uint64_t own, volatile uint64_t *page, uint64_t address,
                           const volatile uint64_t *expected)
{
    static uint64_t pattern = 0xa77ac4a77ac40000ull;
    pattern++;
    page[0] = pattern;
    __sync_synchronize();
    if (!edu_read(edu, own, DMA_BYTES) || !edu_read(edu, address, DMA_BYTES)) {
        return NOTHING;
    }
    page[0] = 0;
    if (!edu_write(edu, own, DMA_BYTES)) {
        return NOTHING;
    }
    __sync_synchronize();
    uint64_t got = page[0];
    return expected && got == expected[0] ? EXPECTED : got == pattern ? NOTHING : got == 0 ? ZEROS : OTHER;
}

struct ground {
    struct edu edu;
    uint64_t *pages[2];
    uint64_t at[2];
};

static bool prepare(struct ground *ground)
{
    const char *failed = edu_open(&ground->edu);
    if (failed) {
        fail(failed);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        ground->pages[i] = mmap(NULL, PVM_PAGE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
        ground->at[i] = ground->pages[i] == MAP_FAILED ? NOWHERE : physical(ground->pages[i]);
        if (ground->at[i] == NOWHERE) {
            fail("a page of this program");
            return false;
        }
    }
    return true;
}

static enum came dma_on(struct ground *ground, const char *target, uint64_t address, const volatile uint64_t *expected)
{
    enum came came = dma_reads(&ground->edu, ground->at[0], ground->pages[0], address, expected);
    row(DMA, READ, target, address, came_names[came]);
    return came;
}

static int table(void)
{
    struct ground ground;
    struct pvm pvm;
    const uint64_t secret = pvm_secret_word(0), own = ~0ull;
    uint64_t value = 0;
    uint64_t el2 = el2_memory(), server = carveout();

    began = counter_ns();
    if (!prepare(&ground)) {
        return 1;
    }
    /* Must be within the device's reach, or nothing that follows means anything. */
    ground.pages[1][0] = own;
    dma_on(&ground, "own", ground.at[1], &own);

    const char *failed = pvm_create(&pvm, true);
    if (failed) {
        fail(failed);
        return 1;
    }
    /* EL2 takes pages from the host's tables, not from the process's: pagemap still says where they are. */
    uint64_t at = physical(pvm_page(&pvm, PVM_SECRET));
    uint64_t lent = physical(pvm_page(&pvm, PVM_LENT));
    say(at != NOWHERE && lent != NOWHERE, "pvm", "\"state\":\"running\",\"secret\":\"0x%llx\",\"lent\":\"0x%llx\"",
        (unsigned long long)at, (unsigned long long)lent);

    volatile uint64_t *page = (void *)pvm_page(&pvm, PVM_SECRET);
    int signal = touch(page, READ, &value);
    row(CPU, READ, "secret", at, signal != 0 ? signal_name(signal) : value == secret ? "reached" : "other data");
    value = 0;
    row(CPU, WRITE, "secret", at, signal_name(touch(page, WRITE, &value)));
    dma_on(&ground, "secret", at, &secret);
    /* A word that is not the secret: the VM counts how many it finds changed. */
    ground.pages[0][0] = ~secret;
    __sync_synchronize();
    edu_read(&ground.edu, ground.at[0], DMA_BYTES);
    edu_write(&ground.edu, at, DMA_BYTES);
    int64_t changed = pvm_command(&pvm, PVM_CHECK);
    row(DMA, WRITE, "secret", at, changed == 0 ? "nothing arrived" : changed > 0 ? "reached" : "the VM does not answer");

    const struct { const char *name; uint64_t address; } others[] = { { "el2", el2 }, { "carveout", server } };
    for (int i = 0; i < 2; i++) {
        if (others[i].address == NOWHERE) {
            say(true, "attack", "\"target\":\"%s\",\"result\":\"absent\"", others[i].name);
            continue;
        }
        if (i == 0) {
            cpu_by_kcore(others[i].name, others[i].address);
        } else {
            cpu_by_device(others[i].name, others[i].address);
        }
        /*
         * What was read goes back, so that EL2 lives on where nothing stops the device: that a write arrived cannot be
         * seen from here, only that an event says it did not.
         */
        if (dma_on(&ground, others[i].name, others[i].address, NULL) == OTHER) {
            edu_read(&ground.edu, ground.at[0], DMA_BYTES);
        } else {
            edu_read(&ground.edu, others[i].address, DMA_BYTES);
        }
        edu_write(&ground.edu, others[i].address, DMA_BYTES);
        row(DMA, WRITE, others[i].name, others[i].address, "issued");
    }

    /* A page that the VM lends is within reach, and again not once it takes it back. */
    const uint64_t lent_word = 0x1e471e471e471e47ull;
    int64_t result = pvm_command(&pvm, PVM_SHARE);
    volatile uint64_t *loan = (void *)pvm_page(&pvm, PVM_LENT);
    signal = touch(loan, READ, &value);
    row(CPU, READ, "lent", lent, result != 0 ? "not shared" : signal_name(signal));
    if (result == 0 && signal == 0) {
        loan[0] = lent_word;
    }
    dma_on(&ground, "lent", lent, &lent_word);
    result = pvm_command(&pvm, PVM_UNSHARE);
    row(CPU, READ, "taken back", lent, result != 0 ? "not unshared" : signal_name(touch(loan, READ, &value)));
    dma_on(&ground, "taken back", lent, NULL);

    say(true, "pvm", "\"state\":\"checked\",\"changed\":%lld", (long long)pvm_command(&pvm, PVM_CHECK));
    pvm_destroy(&pvm);
    say(true, "pvm", "\"state\":\"destroyed\"");
    /* EL2 wiped the page and gave it back: within reach at once, with no fault in between. */
    dma_on(&ground, "given back", at, NULL);
    return all_ok ? 0 : 1;
}

static int storm(unsigned long count)
{
    struct ground ground;
    struct pvm pair[2];
    unsigned long created = 0, read = 0, changed = 0, silent = 0, attempts = 0;
    const uint64_t secret = pvm_secret_word(0);

    if (!prepare(&ground)) {
        return 1;
    }
    while (created < count) {
        for (int i = 0; i < 2; i++) {
            const char *failed = pvm_create(&pair[i], true);
            if (failed) {
                fail(failed);
                return 1;
            }
            created++;
        }
        for (int i = 0; i < 2; i++) {
            uint64_t at = physical(pvm_page(&pair[i], PVM_SECRET));
            read += dma_reads(&ground.edu, ground.at[0], ground.pages[0], at, &secret) == EXPECTED;
            ground.pages[0][0] = ~secret;
            __sync_synchronize();
            edu_read(&ground.edu, ground.at[0], DMA_BYTES);
            edu_write(&ground.edu, at, DMA_BYTES);
            attempts += 2;
            int64_t words = pvm_command(&pair[i], PVM_CHECK);
            changed += words > 0;
            silent += words < 0;
        }
        for (int i = 0; i < 2; i++) {
            pvm_destroy(&pair[i]);
        }
    }
    say(read == 0 && changed == 0 && silent == 0, "storm",
        "\"vms\":%lu,\"attempts\":%lu,\"secretsRead\":%lu,\"secretsChanged\":%lu,\"silent\":%lu", created, attempts, read,
        changed, silent);
    return all_ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "table") == 0) {
        return table();
    }
    if (argc == 3 && strcmp(argv[1], "storm") == 0) {
        return storm(strtoul(argv[2], NULL, 10));
    }
    fprintf(stderr, "usage: attack table | attack storm COUNT\n");
    return 2;
}
