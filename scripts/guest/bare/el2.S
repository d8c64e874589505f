/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hypervisor at EL2 without a will of its own: it carries out what the test (test/qtest/el2.test.ts) writes into its mailbox.
 * MMU off at both levels, no stack, position independent, one page. Each vCPU has a mailbox, a page each from MAILBOX on.
 *
 * Mailbox, 64-bit words: 0 number of the command, 1 command, 2 and 3 its arguments, 4 number that was carried out, 5 result.
 * A vCPU that waits for its next command is in EL2.
 */
#define MAILBOX     0x40200000
#define CPU_ON      0xc4000003
#define SYSTEM_OFF  0x84000008
/* EL1h, D, A, I and F masked. */
#define SPSR_EL1H   0x3c5
#define HCR_RW      31
/* What a load at EL1 answers that stage 2 refuses. */
#define FAULTED     0xfa017

    .arch   armv8.4-a               /* TLBI of ranges, and outer shareable */
    .text
    .global _start
_start:
    mov     x0, #0
entry:                              /* x0: index of this vCPU */
    mov     x19, x0
    ldr     x20, =MAILBOX
    add     x20, x20, x19, lsl #12
    adr     x0, vectors
    msr     vbar_el2, x0
    mov     x0, #1
    lsl     x0, x0, #HCR_RW
    msr     hcr_el2, x0
    mov     x0, #0
    msr     sctlr_el1, x0
    isb
    mov     x21, #0                 /* number of the last command */

next:
    ldr     x0, [x20]
    cmp     x0, x21
    b.eq    next
    dmb     sy
    mov     x21, x0
    ldp     x1, x2, [x20, #8]
    ldr     x3, [x20, #24]
    mov     x4, #0                  /* result */
    cmp     x1, #1
    b.eq    store
    cmp     x1, #2
    b.eq    leave
    cmp     x1, #3
    b.eq    set_vttbr
    cmp     x1, #4
    b.eq    set_vtcr
    cmp     x1, #5
    b.eq    set_hcr
    cmp     x1, #6
    b.eq    invalidate
    cmp     x1, #7
    b.eq    cpu_on
    cmp     x1, #8
    b.eq    off
    mov     x4, #-1
done:
    str     x4, [x20, #40]
    dmb     sy
    str     x21, [x20, #32]
    b       next

store:                              /* value x3 to x2 */
    str     x3, [x2]
    dsb     sy
    b       done

leave:                              /* to EL1, which loads from x2 unless that is 0, and back */
    adr     x0, at_el1
    msr     elr_el2, x0
    mov     x0, #SPSR_EL1H
    msr     spsr_el2, x0
    eret
at_el1:
    mov     x4, #0
    cbz     x2, 1f
    ldr     x4, [x2]
1:  hvc     #0
    b       1b

back:                               /* from EL1: by HVC, or because stage 2 refused the load */
    mrs     x0, esr_el2
    lsr     x0, x0, #26
    cmp     x0, #0x16
    b.eq    done
    ldr     x4, =FAULTED
    b       done

set_vttbr:
    msr     vttbr_el2, x2
    isb
    b       done
set_vtcr:
    msr     vtcr_el2, x2
    isb
    b       done
set_hcr:
    msr     hcr_el2, x2
    isb
    b       done

invalidate:                         /* by instruction x3 of these, with argument x2 */
    dsb     ishst
    adr     x0, 1f
    add     x0, x0, x3, lsl #3
    br      x0
1:  tlbi    vmalls12e1is
    b       2f
    tlbi    ipas2e1is, x2
    b       2f
    tlbi    ipas2le1is, x2
    b       2f
    tlbi    vmalls12e1
    b       2f
    tlbi    ipas2e1, x2
    b       2f
    tlbi    ipas2le1, x2
    b       2f
    tlbi    alle1is
    b       2f
    tlbi    alle1
    b       2f
    tlbi    ripas2e1is, x2
    b       2f
    tlbi    ripas2le1is, x2
    b       2f
    tlbi    ripas2e1, x2
    b       2f
    tlbi    ripas2le1, x2
    b       2f
    tlbi    vmalls12e1os
    b       2f
    tlbi    ipas2e1os, x2
    b       2f
    tlbi    ipas2le1os, x2
    b       2f
    tlbi    alle1os
    b       2f
    tlbi    ripas2e1os, x2
    b       2f
    tlbi    ripas2le1os, x2
    b       2f
2:  dsb     ish
    tlbi    vmalle1is               /* what stage 1 made of it (DDI 0487, D8.17) */
    dsb     ish
    isb
    b       done

cpu_on:                             /* vCPU x2 begins here, at EL2 */
    ldr     x0, =CPU_ON
    mov     x1, x2
    mov     x3, x2
    adr     x2, entry
    smc     #0
    mov     x4, x0
    b       done

off:
    ldr     x0, =SYSTEM_OFF
    smc     #0
    b       .

    .ltorg
    .balign 2048
vectors:                            /* only what comes from EL1 in AArch64, synchronous, is expected */
    .rept 8
    b       .
    .balign 128
    .endr
    b       back
    .balign 128
    .rept 7
    b       .
    .balign 128
    .endr
