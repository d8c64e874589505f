/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "pvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Newer than the headers that this is built with. */
#define VM_TYPE_PROTECTED (1ul << 31)
/* Where the VM's memory begins, IPA. */
#define GUEST_BASE 0x40000000ull
#define REG_PC (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | offsetof(struct kvm_regs, regs.pc) / sizeof(__u32))
/* A VM that has not answered by then never will: TCG is slow, a few instructions are not. */
#define PATIENCE_S 30

extern const uint8_t pvm_payload[], pvm_payload_end[];

static void on_kick(int signal)
{
    (void)signal;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void *run_vcpu(void *opaque)
{
    struct pvm *pvm = opaque;
    while (pvm->running) {
        if (ioctl(pvm->vcpu, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN) {
                continue;
            }
            pvm->exit_reason = -errno;
            return NULL;
        }
        pvm->exit_reason = pvm->run->exit_reason;
        return NULL;
    }
    return NULL;
}

/* Waits until the VM has answered `sequence`; false when it ended, or does not answer. */
static bool answered(struct pvm *pvm, uint64_t sequence)
{
    volatile uint64_t *mailbox = (void *)pvm_page(pvm, PVM_MAILBOX);
    double end = now_s() + PATIENCE_S;
    while (now_s() < end) {
        if (mailbox[2] >= sequence) {
            return true;
        }
        if (pvm->exit_reason != 0) {
            errno = ECANCELED;
            return false;
        }
        usleep(200);
    }
    errno = ETIMEDOUT;
    return false;
}

/*
 * The mailbox is the host's again only once the VM has shared it: until then a load would be a fault, so the first look
 * is at memory through the kernel, which answers EFAULT instead.
 */
static bool is_shared(struct pvm *pvm)
{
    double end = now_s() + PATIENCE_S;
    int ends[2];
    bool shared = false;
    if (pipe2(ends, O_NONBLOCK) != 0) {
        return false;
    }
    while (!shared && pvm->exit_reason == 0 && now_s() < end) {
        uint64_t words[4] = { 0 };
        if (write(ends[1], pvm_page(pvm, PVM_MAILBOX), sizeof(words)) == sizeof(words) &&
            read(ends[0], words, sizeof(words)) == sizeof(words)) {
            shared = words[2] == 1;
        }
        usleep(200);
    }
    close(ends[0]);
    close(ends[1]);
    if (!shared && pvm->exit_reason == 0) {
        errno = ETIMEDOUT;
    }
    return shared;
}

const char *pvm_create(struct pvm *pvm, bool is_protected)
{
    const char *failed = NULL;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    struct kvm_vcpu_init init;
    struct kvm_userspace_memory_region slot = { .guest_phys_addr = GUEST_BASE, .memory_size = PVM_MEMORY };
    uint64_t pc = GUEST_BASE;
    struct kvm_one_reg reg = { .id = REG_PC, .addr = (uintptr_t)&pc };
    struct sigaction kick = { .sa_handler = on_kick };

    memset(pvm, 0, sizeof(*pvm));
    pvm->vm = pvm->vcpu = -1;
    pvm->sequence = 1;
    if (kvm < 0) {
        return "open /dev/kvm";
    }
    sigaction(SIGUSR1, &kick, NULL);
    pvm->vm = ioctl(kvm, KVM_CREATE_VM, is_protected ? VM_TYPE_PROTECTED : 0);
    pvm->run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    close(kvm);
    if (pvm->vm < 0) {
        return "KVM_CREATE_VM";
    }
    pvm->memory = mmap(NULL, PVM_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (pvm->memory == MAP_FAILED) {
        pvm->memory = NULL;
        failed = "mmap of the VM's memory";
    } else {
        memcpy(pvm->memory, pvm_payload, pvm_payload_end - pvm_payload);
        memset(pvm_page(pvm, PVM_SECRET), 0, 3 * PVM_PAGE);
        slot.userspace_addr = (uintptr_t)pvm->memory;
    }
    if (!failed && ioctl(pvm->vm, KVM_SET_USER_MEMORY_REGION, &slot) != 0) {
        failed = "KVM_SET_USER_MEMORY_REGION";
    }
    if (!failed && (pvm->vcpu = ioctl(pvm->vm, KVM_CREATE_VCPU, 0)) < 0) {
        failed = "KVM_CREATE_VCPU";
    }
    if (!failed) {
        pvm->run = mmap(NULL, pvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, pvm->vcpu, 0);
        if (pvm->run == MAP_FAILED) {
            pvm->run = NULL;
            failed = "mmap of kvm_run";
        }
    }
    if (!failed && ioctl(pvm->vm, KVM_ARM_PREFERRED_TARGET, &init) != 0) {
        failed = "KVM_ARM_PREFERRED_TARGET";
    }
    if (!failed) {
        init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
        if (ioctl(pvm->vcpu, KVM_ARM_VCPU_INIT, &init) != 0) {
            failed = "KVM_ARM_VCPU_INIT";
        } else if (ioctl(pvm->vcpu, KVM_SET_ONE_REG, &reg) != 0) {
            failed = "KVM_SET_ONE_REG pc";
        }
    }
    if (!failed) {
        pvm->running = true;
        if ((errno = pthread_create(&pvm->thread, NULL, run_vcpu, pvm)) != 0) {
            pvm->running = false;
            failed = "pthread_create";
        } else if (!is_shared(pvm)) {
            failed = pvm->exit_reason < 0 ? "KVM_RUN" : "the VM's start";
            if (pvm->exit_reason < 0) {
                errno = -pvm->exit_reason;
            }
        } else if (((volatile int64_t *)pvm_page(pvm, PVM_MAILBOX))[3] != 0) {
            errno = EPERM;
            failed = "the VM's MEM_SHARE of its mailbox";
        }
    }
    if (failed) {
        int saved = errno;
        pvm_destroy(pvm);
        errno = saved;
    }
    return failed;
}

int64_t pvm_command(struct pvm *pvm, enum pvm_command command)
{
    volatile uint64_t *mailbox = (void *)pvm_page(pvm, PVM_MAILBOX);
    mailbox[1] = command;
    __sync_synchronize();
    mailbox[0] = ++pvm->sequence;
    return answered(pvm, pvm->sequence) ? (int64_t)mailbox[3] : INT64_MIN;
}

void pvm_destroy(struct pvm *pvm)
{
    if (pvm->running) {
        pvm->running = false;
        /* The signal may come before KVM_RUN: it is sent until the thread has gone. */
        while (pthread_tryjoin_np(pvm->thread, NULL) != 0) {
            pthread_kill(pvm->thread, SIGUSR1);
            usleep(1000);
        }
    }
    if (pvm->run) {
        munmap(pvm->run, pvm->run_size);
    }
    if (pvm->vcpu >= 0) {
        close(pvm->vcpu);
    }
    if (pvm->vm >= 0) {
        close(pvm->vm);
    }
    if (pvm->memory) {
        munmap(pvm->memory, PVM_MEMORY);
    }
    pvm->run = NULL;
    pvm->memory = NULL;
    pvm->vm = pvm->vcpu = -1;
}
