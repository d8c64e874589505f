/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What runs in the protected VM: EL1, MMU off, no stack, position independent. Page 0 is this code, then secret, mailbox,
 * lent page (pvm.h).
 *
 * Mailbox, 64-bit words: 0 command's sequence number, 1 command, 2 answered sequence number, 3 result.
 */
#define MEM_SHARE   0xc6000003
#define MEM_UNSHARE 0xc6000004
#define SYSTEM_OFF  0x84000008

    .section .rodata.payload, "a"
    .balign 8
    .global pvm_payload, pvm_payload_end
pvm_payload:
    adr     x20, pvm_payload
    add     x21, x20, #0x1000       /* secret */
    add     x22, x20, #0x2000       /* mailbox */
    add     x23, x20, #0x3000       /* lent page */
    movz    x24, #0x5ec2, lsl #48
    movk    x24, #0xe75e, lsl #32
    movk    x24, #0xc2e7, lsl #16
    movk    x24, #0x5ec2
    mov     x25, #0
1:  eor     x0, x24, x25
    str     x0, [x21, x25, lsl #3]
    add     x25, x25, #1
    cmp     x25, #512
    b.lo    1b
    str     xzr, [x22]              /* touched, so that they are there to be shared */
    str     xzr, [x23]
    mov     x1, x22
    bl      share
    str     x0, [x22, #24]
    dsb     sy
    mov     x19, #1                 /* answered: 1 says that the VM is ready */
    str     x19, [x22, #16]

wait:
    dsb     sy
    ldr     x0, [x22]
    cmp     x0, x19
    b.ls    wait
    mov     x19, x0
    ldr     x2, [x22, #8]
    mov     x0, #-1
    cmp     x2, #1
    b.eq    check
    mov     x1, x23
    cmp     x2, #2
    b.eq    do_share
    cmp     x2, #3
    b.eq    do_unshare
    cmp     x2, #4
    b.eq    off
answer:
    str     x0, [x22, #24]
    dsb     sy
    str     x19, [x22, #16]
    b       wait

check:                              /* how many words are not what was stored */
    mov     x0, #0
    mov     x25, #0
2:  eor     x3, x24, x25
    ldr     x4, [x21, x25, lsl #3]
    cmp     x3, x4
    cinc    x0, x0, ne
    add     x25, x25, #1
    cmp     x25, #512
    b.lo    2b
    b       answer

do_share:
    bl      share
    b       answer
do_unshare:
    movz    x0, #(MEM_UNSHARE >> 16), lsl #16
    movk    x0, #(MEM_UNSHARE & 0xffff)
    mov     x2, #0
    mov     x3, #0
    hvc     #0
    b       answer

share:                              /* the page at x1 */
    movz    x0, #(MEM_SHARE >> 16), lsl #16
    movk    x0, #(MEM_SHARE & 0xffff)
    mov     x2, #0
    mov     x3, #0
    hvc     #0
    ret

off:
    movz    w0, #(SYSTEM_OFF >> 16), lsl #16
    movk    w0, #(SYSTEM_OFF & 0xffff)
    hvc     #0
    b       off
pvm_payload_end:
