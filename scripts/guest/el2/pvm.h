/* SPDX-License-Identifier: Apache-2.0 */
/* A protected VM of one vCPU and 2 MiB, made through /dev/kvm; see README.md. */
#ifndef PVM_H
#define PVM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PVM_PAGE 4096u
#define PVM_MEMORY (2u << 20)
/* Words of the secret, which fills one page. */
#define PVM_SECRET_WORDS (PVM_PAGE / sizeof(uint64_t))

/* Pages of the VM's memory; payload.S has the same numbers. */
enum pvm_page {
    PVM_CODE,
    /* What the VM keeps to itself. */
    PVM_SECRET,
    /* Shared with the host as long as the VM lives: how the two talk. */
    PVM_MAILBOX,
    /* Shared and taken back on command. */
    PVM_LENT,
};

/* Commands to the VM; payload.S has the same numbers. */
enum pvm_command {
    PVM_CHECK = 1,
    PVM_SHARE,
    PVM_UNSHARE,
    PVM_OFF,
};

struct pvm {
    int vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    /* The slot: PVM_MEMORY bytes of anonymous memory. */
    uint8_t *memory;
    pthread_t thread;
    bool running;
    /* Commands given. */
    uint64_t sequence;
    /* Why KVM_RUN ended; 0 while it runs. */
    volatile int exit_reason;
};

/*
 * Creates a VM, runs it on a thread of its own, and waits until it has stored its secret and shared its mailbox.
 * Returns NULL, or what failed (with errno).
 */
const char *pvm_create(struct pvm *pvm, bool is_protected);

/* Gives a command and waits for its result: 0, or the number of changed words (PVM_CHECK), or SMCCC's error. */
int64_t pvm_command(struct pvm *pvm, enum pvm_command command);

/* Ends it, whatever it does, and gives its memory back. */
void pvm_destroy(struct pvm *pvm);

static inline uint8_t *pvm_page(const struct pvm *pvm, enum pvm_page page)
{
    return pvm->memory + page * PVM_PAGE;
}

/* The word that the VM stores at index `i` of its secret. */
static inline uint64_t pvm_secret_word(unsigned int i)
{
    return 0x5ec2e75ec2e75ec2ull ^ i;
}

#endif
